package postgres

import (
	"bytes"
	"strconv"
	"unicode/utf8"
)

// What jsonb marks the beginning of an array and of an object with, in both halves.
const (
	jsonArray  = 0x40000000_40000000
	jsonObject = 0x20000000_20000000
)

// mostNested is how deep a document may go: what is deeper is left to the server.
const mostNested = 1000

// jsonHash hashes a document as Postgres does a jsonb, from the text that it writes of one: keys in jsonb's own order, each once.
type jsonHash struct {
	seed, hash uint64
	rest       []byte
	word       []byte // of a string with escapes
	digits     []byte
}

// of hashes a document.
func (j *jsonHash) of(document []byte, seed uint64) (uint64, error) {
	j.seed, j.hash, j.rest = seed, 0, document
	if s := string(document); s == "{}" || s == "[]" {
		return seed, nil
	}
	if len(document) > 0 && document[0] != '{' && document[0] != '[' {
		j.hash ^= jsonArray // a scalar is kept as the one element of an array
	}
	if err := j.value(0); err != nil {
		return 0, err
	}
	if len(j.rest) > 0 {
		return 0, errBinaryForm
	}
	return j.hash, nil
}

// mix takes one scalar in.
func (j *jsonHash) mix(hash uint64) {
	j.hash = j.hash<<1&0xfffffffe_fffffffe | j.hash>>31&0x00000001_00000001
	j.hash ^= hash
}

// next takes what the rest begins with.
func (j *jsonHash) next(what string) bool {
	rest, ok := bytes.CutPrefix(j.rest, []byte(what))
	j.rest = rest
	return ok
}

func (j *jsonHash) value(depth int) error {
	if len(j.rest) == 0 || depth > mostNested {
		return errBinaryForm
	}
	switch c := j.rest[0]; {
	case c == '{':
		return j.container(depth, jsonObject)
	case c == '[':
		return j.container(depth, jsonArray)
	case c == '"':
		return j.text()
	case c == '-' || c >= '0' && c <= '9':
		return j.number()
	case j.next("null"):
		j.mix(j.seed + 1)
	case j.next("true"):
		j.bool(1)
	case j.next("false"):
		j.bool(0)
	default:
		return errBinaryForm
	}
	return nil
}

func (j *jsonHash) bool(b uint32) {
	if j.seed == 0 {
		j.mix(uint64(b) + 1)
		return
	}
	j.mix(hashWord(b, j.seed))
}

// container takes an object or an array.
func (j *jsonHash) container(depth int, kind uint64) error {
	j.hash ^= kind
	j.rest = j.rest[1:]
	end := "]"
	if kind == jsonObject {
		end = "}"
	}
	if j.next(end) {
		return nil
	}
	for {
		if kind == jsonObject {
			if err := j.text(); err != nil {
				return err
			}
			if !j.next(": ") {
				return errBinaryForm
			}
		}
		if err := j.value(depth + 1); err != nil {
			return err
		}
		if j.next(end) {
			return nil
		}
		if !j.next(", ") {
			return errBinaryForm
		}
	}
}

func (j *jsonHash) number() error {
	j.next("-") // the hash leaves the sign out
	n := 0
	for n < len(j.rest) && (j.rest[n] == '.' || j.rest[n] >= '0' && j.rest[n] <= '9') {
		n++
	}
	if n == 0 {
		return errBinaryForm
	}
	d, err := parseDecimal(j.rest[:n], j.digits)
	if err != nil {
		return err
	}
	j.digits, j.rest = d.groups, j.rest[n:]
	j.mix(d.hash(j.seed))
	return nil
}

// text takes a string or a key.
func (j *jsonHash) text() error {
	if len(j.rest) == 0 || j.rest[0] != '"' {
		return errBinaryForm
	}
	v := j.rest[1:]
	end := bytes.IndexByte(v, '"')
	if end < 0 {
		return errBinaryForm
	}
	if bytes.IndexByte(v[:end], '\\') < 0 {
		j.mix(hashBytes(v[:end], j.seed))
		j.rest = v[end+1:]
		return nil
	}
	word, n, err := unescape(j.word[:0], v)
	if err != nil {
		return err
	}
	j.word, j.rest = word, v[n:]
	j.mix(hashBytes(word, j.seed))
	return nil
}

// unescape appends a string of which v begins behind its quote, and returns how long it was with the quote at its end.
func unescape(word, v []byte) ([]byte, int, error) {
	for i := 0; i < len(v); i++ {
		switch {
		case v[i] == '"':
			return word, i + 1, nil
		case v[i] != '\\':
			word = append(word, v[i])
			continue
		case i+1 == len(v):
			return nil, 0, errBinaryForm
		}
		i++
		switch c := v[i]; c {
		case '"', '\\', '/':
			word = append(word, c)
		case 'b':
			word = append(word, '\b')
		case 'f':
			word = append(word, '\f')
		case 'n':
			word = append(word, '\n')
		case 'r':
			word = append(word, '\r')
		case 't':
			word = append(word, '\t')
		case 'u':
			if i+5 > len(v) {
				return nil, 0, errBinaryForm
			}
			r, err := strconv.ParseUint(string(v[i+1:i+5]), 16, 16)
			if err != nil {
				return nil, 0, errBinaryForm
			}
			word = utf8.AppendRune(word, rune(r)) // a control character: others are written as they are
			i += 4
		default:
			return nil, 0, errBinaryForm
		}
	}
	return nil, 0, errBinaryForm
}
