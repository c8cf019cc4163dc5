package debezium

import (
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"strings"
)

const (
	decimalName  = "org.apache.kafka.connect.data.Decimal"
	variableName = "io.debezium.data.VariableScaleDecimal"
)

// decimal writes a number that came as the bytes of its digits, in two's complement, and how many of those stand behind the point.
func decimal(v string, scale int) (string, error) {
	raw, err := base64.StdEncoding.DecodeString(v)
	if err != nil {
		return "", fmt.Errorf("%w: no number in base64", errUnfit)
	}
	if scale > 20000 || scale < -150000 { // as far as numeric reaches
		return "", fmt.Errorf("%w: a number with %d digits behind the point", errUnfit, scale)
	}
	n := new(big.Int).SetBytes(raw)
	if len(raw) > 0 && raw[0]&0x80 != 0 {
		n.Sub(n, new(big.Int).Lsh(big.NewInt(1), uint(len(raw))*8))
	}
	digits := new(big.Int).Abs(n).String()
	sign := ""
	if n.Sign() < 0 {
		sign = "-"
	}
	switch {
	case scale <= 0 && n.Sign() == 0:
		return "0", nil
	case scale <= 0:
		return sign + digits + strings.Repeat("0", -scale), nil
	}
	if len(digits) <= scale {
		digits = strings.Repeat("0", scale-len(digits)+1) + digits
	}
	return sign + digits[:len(digits)-scale] + "." + digits[len(digits)-scale:], nil
}

// figure writes a numeric, or money, that came as a string: its digits (decimal.handling.mode=string), or without a schema its bytes (precise).
func (d *Decoder) figure(v string, s *schema, t Type) (string, error) {
	switch v {
	case "NAN", "NaN":
		return "NaN", nil
	case "POSITIVE_INFINITY", "Infinity":
		return "Infinity", nil
	case "NEGATIVE_INFINITY", "-Infinity":
		return "-Infinity", nil
	}
	if s != nil && s.Type == "string" {
		return v, nil
	}
	scale, scaled := 2, t.is("money")
	if t.is("numeric") && t.Modifier >= 4 {
		scale, scaled = (t.Modifier-4)&0x7ff, true // of eleven bits, of which Debezium takes none for the sign
	}
	mode, sure := written(v, scale)
	switch {
	case !scaled:
		return v, nil // precisely, it had come with its scale
	case sure && (mode == d.decimal || d.decimal == ""):
		d.decimal = mode
	case sure:
		return "", fmt.Errorf("%w: after decimal.handling.mode=%s it looks like %s: a connector writes in one way; give trickle its settings (--connector FILE)", errUnfit, d.decimal, mode)
	case d.decimal == "":
		return "", errors.New("without a schema its value may be read in two ways: give trickle the connector's settings (--connector FILE), of which decimal.handling.mode tells, or set value.converter.schemas.enable=true")
	default:
		mode = d.decimal
	}
	if mode == "string" {
		return v, nil
	}
	return decimal(v, scale)
}

// written tells how a number was written, as its digits or its bytes. What base64 makes of bytes comes in fours, and has no point and no minus.
func written(v string, scale int) (mode string, sure bool) {
	switch {
	case v == "" || strings.ContainsAny(v, ".-"):
		return "string", v != ""
	case len(v)%4 != 0:
		return "string", true
	case scale > 0 || strings.Trim(v, "0123456789") != "":
		return "precise", true
	default:
		return "", false
	}
}

// bits writes a string of bits that came as bytes, the lowest first. How long one of varying length was is not told: zeros in front are lost.
func bits(v string, length int, t Type) (string, error) {
	raw, err := base64.StdEncoding.DecodeString(v)
	if err != nil {
		return "", fmt.Errorf("%w: no bits in base64", errUnfit)
	}
	var b strings.Builder
	for i := len(raw) - 1; i >= 0; i-- {
		fmt.Fprintf(&b, "%08b", raw[i])
	}
	digits := strings.TrimLeft(b.String(), "0")
	if t.is("varbit") {
		return digits, nil
	}
	if length > 10*1024*1024*8 || len(digits) > length {
		return "", fmt.Errorf("%w: %d bits", errUnfit, length)
	}
	return strings.Repeat("0", length-len(digits)) + digits, nil
}

// bit reads a string of bits without a schema.
func (d *Decoder) bit(v string, s *schema, t Type) (string, error) {
	if s != nil {
		return v, nil
	}
	return bits(v, max(t.Modifier, 1), t)
}

// number writes what came as a number.
func (d *Decoder) number(v string, s *schema, t Type) (string, error) {
	if text, ok, err := d.moment(v, s, t); ok || err != nil {
		return text, err
	}
	if t.is("bool", "bytea") {
		return "", fmt.Errorf("%w: a number", errUnfit)
	}
	return v, nil
}
