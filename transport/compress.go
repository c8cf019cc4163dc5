package transport

import (
	"bytes"

	"github.com/twmb/franz-go/pkg/kgo"
)

// largeBatch is what a batch of records has at least, in bytes, to be compressed for speed.
const largeBatch = 256 << 10

// compressor compresses small batches well and large ones fast. What is large is copied rows for the most part, which their sender has compressed: zstd would try hard
// to find something left in them, for ten times what it cost to read them.
type compressor struct{ small, large kgo.Compressor }

func newCompressor() compressor {
	codec := func(preferred kgo.CompressionCodec) kgo.Compressor {
		c, err := kgo.DefaultCompressor(preferred, kgo.NoCompression())
		if err != nil {
			panic(err) // it refuses levels, and these have none
		}
		return c
	}
	return compressor{small: codec(kgo.ZstdCompression()), large: codec(kgo.SnappyCompression())}
}

// Compress is kgo's.
func (c compressor) Compress(dst *bytes.Buffer, src []byte, flags ...kgo.CompressFlag) ([]byte, kgo.CompressionCodecType) {
	if len(src) >= largeBatch {
		return c.large.Compress(dst, src, flags...)
	}
	return c.small.Compress(dst, src, flags...)
}
