package baseline

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
)

// format is that of the manifests that this version writes, and the only one that it reads.
const format = 1

// Codec turns manifests into bytes and back. With a Secret it signs what it encodes and refuses what is not signed; without one it refuses what is signed, since
// it could not check the signature. As a manifest names its objects by SHA-256, a signature holds for these too.
type Codec struct {
	Secret []byte
}

// envelope is how a manifest is stored. The checksum and the signature are over the manifest's exact bytes.
type envelope struct {
	Format   int             `json:"format"`
	Manifest json.RawMessage `json:"manifest"`
	SHA256   string          `json:"sha256"`
	HMAC     string          `json:"hmac,omitempty"`
}

// Encode returns a manifest's bytes, after checking that Decode would take them.
func (c Codec) Encode(m *Manifest) ([]byte, error) {
	if err := m.check(); err != nil {
		return nil, fmt.Errorf("manifest of set %s: %w", m.Set, err)
	}
	body, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encoding the manifest of set %s: %w", m.Set, err)
	}
	return c.seal(body), nil
}

// seal is the one way in which these bytes are stored.
func (c Codec) seal(body []byte) []byte {
	sum := sha256.Sum256(body)
	var b bytes.Buffer
	fmt.Fprintf(&b, `{"format":%d,"manifest":`, format)
	b.Write(body)
	fmt.Fprintf(&b, `,"sha256":"%x"`, sum)
	if len(c.Secret) > 0 {
		fmt.Fprintf(&b, `,"hmac":"%s"`, c.sign(body))
	}
	b.WriteString("}\n")
	return b.Bytes()
}

// sign is over more than the manifest, so that no signed message can stand in for one.
func (c Codec) sign(body []byte) string {
	mac := hmac.New(sha256.New, c.Secret)
	fmt.Fprintf(mac, "trickle base-line manifest %d\n", format)
	mac.Write(body)
	return hex.EncodeToString(mac.Sum(nil))
}

// Decode reads what Encode wrote and checks all of it. Name is the manifest's, for its errors: *CorruptError or *ForgedError.
func (c Codec) Decode(name string, b []byte) (*Manifest, error) {
	var e envelope
	if err := json.Unmarshal(b, &e); err != nil {
		return nil, corrupt(name, "it is damaged or was cut off (%s): remove it, or restore from another set", err)
	}
	if e.Format != format {
		return nil, corrupt(name, "it has format %d and this version reads format %d only: use the version of trickle that wrote it, or a newer one", e.Format, format)
	}
	if sum := sha256.Sum256(e.Manifest); e.SHA256 != hex.EncodeToString(sum[:]) {
		return nil, corrupt(name, "its checksum does not match what it holds: it was changed or damaged after it was written")
	}
	switch signed := e.HMAC != ""; {
	case signed && len(c.Secret) == 0:
		return nil, &ForgedError{name, "it is signed and no signing key is set here: set TRICKLE_SIGNING_KEY to the publisher's"}
	case !signed && len(c.Secret) > 0:
		return nil, &ForgedError{name, "it is not signed, and a signing key is set here: build a set with the same TRICKLE_SIGNING_KEY, or unset it if nobody else can write to the store"}
	case signed && !hmac.Equal([]byte(e.HMAC), []byte(c.sign(e.Manifest))):
		return nil, &ForgedError{name, "its signature does not match: it was signed with another key than this TRICKLE_SIGNING_KEY, or was changed by somebody without it"}
	}
	// What is left is what stands around the manifest: JSON may be written in many ways, and this is written in one.
	if !bytes.Equal(c.seal(e.Manifest), b) {
		return nil, corrupt(name, "it was changed after it was written")
	}
	m := new(Manifest)
	if err := json.Unmarshal(e.Manifest, m); err != nil {
		return nil, corrupt(name, "it can't be read (%s): another version of trickle wrote it", err)
	}
	if err := m.check(); err != nil {
		return nil, corrupt(name, "%s", err)
	}
	return m, nil
}
