// Package message is what travels between a publisher and its replicas: one protobuf envelope, its encoding and its signature.
//
// It decides how bytes on a topic become an envelope and whether they may be believed. What always holds: an envelope that Decode
// returns was whole, carried a body this version knows and, where a signing key is set, was written by somebody who has that key;
// encoding and decoding are inverse. When it fails the caller gets ErrMalformed or ErrForged and drops the message: an unreadable
// or forged message never corrects anything.
package message

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/trickle-verify/trickle/message/tricklepb"
)

// ErrMalformed is wrapped by Decode's error for bytes that are no envelope, or one without a body that this version knows.
var ErrMalformed = errors.New("malformed message")

// ErrForged is wrapped by Decode's error for a message whose signature is missing or wrong.
var ErrForged = errors.New("message has no valid signature")

// The first byte on the wire tells how the rest is laid out.
const (
	formatPlain  = 0x01 // protobuf
	formatSigned = 0x02 // HMAC-SHA-256 of topic and protobuf, then protobuf
)

// Codec turns envelopes into bytes and back. With a Secret it signs what it encodes and refuses what is not signed; without
// one it encodes plainly and refuses signed messages, whose signature it could not check. The topic is part of what is signed,
// so that a message can't be replayed on another topic.
type Codec struct {
	Secret []byte
}

// Encode returns the bytes for the topic.
func (c Codec) Encode(topic string, env *tricklepb.Envelope) ([]byte, error) {
	head := 1
	if len(c.Secret) > 0 {
		head += sha256.Size
	}
	options := proto.MarshalOptions{Deterministic: true}
	out, err := options.MarshalAppend(make([]byte, head, head+options.Size(env)), env)
	if err != nil {
		return nil, fmt.Errorf("encoding a message about %s: %w", env.GetTable(), err)
	}
	out[0] = formatPlain
	if len(c.Secret) > 0 {
		out[0] = formatSigned
		copy(out[1:], c.sign(topic, out[head:]))
	}
	return out, nil
}

// Decode reads what Encode wrote for the same topic. Its errors wrap ErrMalformed or ErrForged.
func (c Codec) Decode(topic string, b []byte) (*tricklepb.Envelope, error) {
	if len(b) == 0 {
		return nil, fmt.Errorf("%w: empty", ErrMalformed)
	}
	format, body := b[0], b[1:]
	switch {
	case format == formatPlain && len(c.Secret) == 0:
	case format == formatPlain:
		return nil, fmt.Errorf("%w: it is not signed", ErrForged)
	case format == formatSigned && len(c.Secret) == 0:
		return nil, fmt.Errorf("%w: it is signed and no signing key is set here", ErrForged)
	case format == formatSigned && len(body) < sha256.Size:
		return nil, fmt.Errorf("%w: shorter than its signature", ErrMalformed)
	case format == formatSigned:
		mac := body[:sha256.Size]
		body = body[sha256.Size:]
		if !hmac.Equal(mac, c.sign(topic, body)) {
			return nil, fmt.Errorf("%w: the signature does not match", ErrForged)
		}
	default:
		return nil, fmt.Errorf("%w: unknown format 0x%02x", ErrMalformed, format)
	}
	env := new(tricklepb.Envelope)
	if err := proto.Unmarshal(body, env); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if env.GetBody() == nil {
		return nil, fmt.Errorf("%w: no body that this version knows", ErrMalformed)
	}
	return env, nil
}

func (c Codec) sign(topic string, body []byte) []byte {
	mac := hmac.New(sha256.New, c.Secret)
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], uint64(len(topic)))
	mac.Write(n[:])
	mac.Write([]byte(topic))
	mac.Write(body)
	return mac.Sum(nil)
}
