package baseline

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/transport"
)

// Header is what an object says of itself, on a line of JSON before the rows: `zstd -dc object | tail -n +2` is what COPY takes.
type Header struct {
	Format      int           `json:"format"`
	Pipeline    string        `json:"pipeline"`
	Source      string        `json:"source"`
	Table       string        `json:"table"`
	Columns     []string      `json:"columns"` // as they stand in the rows
	Binary      bool          `json:"binary"`
	Fingerprint uint64        `json:"fingerprint,string"`
	Digest      digest.Kind   `json:"digest"`
	Range       message.Range `json:"range"`
	Rows        uint64        `json:"rows"`
	Sum         uint64        `json:"sum,string"`

	// Of the reading that wrote it. A later one that found it unchanged stands in the manifest that names it.
	Snapshot string             `json:"snapshot"`
	LSN      uint64             `json:"lsn"`
	Timeline uint32             `json:"timeline"`
	ReadAt   time.Time          `json:"read_at"`
	Position transport.Position `json:"position"`
}

// Exported are the names of the columns that objects hold, in their order.
func (s Schema) Exported() []string {
	var names []string
	for _, c := range s.Columns {
		if c.Exported {
			names = append(names, c.Name)
		}
	}
	return names
}

// Packer makes objects: what is written to it is compressed as it comes, so that memory holds little more than what is stored. It may be used again after
// Finish or Reset.
type Packer struct {
	buf bytes.Buffer
	enc *zstd.Encoder
	raw int64
}

// NewPacker makes one.
func NewPacker() (*Packer, error) {
	p := &Packer{}
	var err error
	if p.enc, err = zstd.NewWriter(&p.buf, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false)); err != nil { // the SHA-256 sees more
		return nil, fmt.Errorf("preparing to compress: %w", err)
	}
	return p, nil
}

// Write takes the rows.
func (p *Packer) Write(b []byte) (int, error) {
	p.raw += int64(len(b))
	return p.enc.Write(b)
}

// Raw is how much was written.
func (p *Packer) Raw() int64 { return p.raw }

// Reset forgets what was written.
func (p *Packer) Reset() {
	p.buf.Reset()
	p.enc.Reset(&p.buf)
	p.raw = 0
}

// Packed is an object's bytes as they are to be stored.
type Packed struct {
	Bytes  []byte
	SHA256 string
	Raw    int64
}

// Finish puts the header before the rows, which tells what is known only now.
func (p *Packer) Finish(h Header) (Packed, error) {
	h.Format = format
	if err := p.enc.Close(); err != nil {
		return Packed{}, fmt.Errorf("compressing: %w", err)
	}
	line, err := json.Marshal(h)
	if err != nil {
		return Packed{}, fmt.Errorf("encoding a header: %w", err)
	}
	// A frame of its own: frames that follow each other are read as one.
	out := p.enc.EncodeAll(append(line, '\n'), make([]byte, 0, p.buf.Len()+len(line)))
	out = append(out, p.buf.Bytes()...)
	sum := sha256.Sum256(out)
	packed := Packed{Bytes: out, SHA256: hex.EncodeToString(sum[:]), Raw: p.raw}
	p.Reset()
	return packed, nil
}

// Content is an object whose bytes are, by size and SHA-256, what its manifest names, and whose header agrees with it. It reads the rows as COPY takes them.
type Content struct {
	Header Header
	name   string
	want   int64
	read   int64
	dec    *zstd.Decoder
	rows   *bufio.Reader
}

// mostHeader bounds a header: many columns, many partitions.
const mostHeader = 64 << 20

// unpack checks an object's bytes before anything of them is given out.
func unpack(b []byte, m *Manifest, t *Table, o *Object) (*Content, error) {
	if int64(len(b)) != o.Bytes {
		return nil, corrupt(o.Name, "it has %d bytes and the manifest of set %s says %d: it was cut off or replaced", len(b), m.Set, o.Bytes)
	}
	if sum := sha256.Sum256(b); hex.EncodeToString(sum[:]) != o.SHA256 {
		return nil, corrupt(o.Name, "its SHA-256 is not what the manifest of set %s says: it was changed or damaged after it was written; trickle baseline build --afresh makes another set", m.Set)
	}
	dec, err := zstd.NewReader(bytes.NewReader(b), zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true))
	if err != nil {
		return nil, corrupt(o.Name, "it can't be decompressed: %s", err)
	}
	c := &Content{name: o.Name, want: o.Raw, dec: dec, rows: bufio.NewReaderSize(dec, 64<<10)}
	if err := c.head(m, t, o); err != nil {
		dec.Close()
		return nil, err
	}
	return c, nil
}

// head reads the header and holds it against the manifest.
func (c *Content) head(m *Manifest, t *Table, o *Object) error {
	line, err := readLine(c.rows)
	if err != nil {
		return corrupt(c.name, "its header can't be read: %s", err)
	}
	h := &c.Header
	if err := json.Unmarshal(line, h); err != nil {
		return corrupt(c.name, "its header can't be read: %s", err)
	}
	switch {
	case h.Format != format:
		return corrupt(c.name, "it has format %d and this version reads format %d only: use the version of trickle that wrote it, or a newer one", h.Format, format)
	case h.Pipeline != m.Pipeline:
		return &ForeignError{Name: c.name, What: "pipeline", Has: h.Pipeline, Want: m.Pipeline}
	case h.Source != m.Source:
		return &ForeignError{Name: c.name, What: "source", Has: h.Source, Want: m.Source}
	case h.Table != t.Table:
		return &ForeignError{Name: c.name, What: "table", Has: h.Table, Want: t.Table}
	}
	for what, same := range map[string]bool{
		"schema": h.Fingerprint == t.Schema.Fingerprint && slices.Equal(h.Columns, t.Schema.Exported()) && h.Binary == t.Binary,
		"range":  h.Range.Lo.Equal(o.Range.Lo) && h.Range.Hi.Equal(o.Range.Hi) && (h.Range.Lo == nil) == (o.Range.Lo == nil) && (h.Range.Hi == nil) == (o.Range.Hi == nil),
		"rows":   h.Rows == o.Rows && h.Sum == o.Sum && h.Digest == t.Digest,
	} {
		if !same {
			return corrupt(c.name, "its header tells of another %s than the manifest of set %s", what, m.Set)
		}
	}
	return nil
}

// readLine reads up to a newline, which it leaves out.
func readLine(r *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case err == nil:
			return line[:len(line)-1], nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return nil, err
		case len(line) > mostHeader:
			return nil, errors.New("it is too long")
		}
	}
}

// Read gives out rows. At the end it makes sure that it were as many bytes as were written.
func (c *Content) Read(b []byte) (int, error) {
	n, err := c.rows.Read(b)
	c.read += int64(n)
	switch {
	case c.read > c.want: // a little can be decompressed to more than there is room for
		return 0, corrupt(c.name, "it holds more than the %d bytes that its manifest says", c.want)
	case err == nil:
		return n, nil
	case !errors.Is(err, io.EOF):
		return n, corrupt(c.name, "it can't be decompressed: %s", err)
	case c.read != c.want:
		return n, corrupt(c.name, "it holds %d bytes and its manifest says %d", c.read, c.want)
	default:
		return n, io.EOF
	}
}

// Close frees what reading took.
func (c *Content) Close() { c.dec.Close() }
