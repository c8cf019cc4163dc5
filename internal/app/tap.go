package app

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/transport"
)

// Tap prints a topic's messages as JSON lines: those that come from now on, or with fromStart only those that are there.
type Tap struct {
	Topic     string // verify, requests, cursors, replies.CONSUMER, or a whole name
	FromStart bool
	Out       io.Writer
}

// line is one message of a tap.
type line struct {
	Topic     string          `json:"topic"`
	Partition int32           `json:"partition"`
	Offset    int64           `json:"offset"`
	At        string          `json:"at"`
	Key       string          `json:"key,omitempty"`
	Message   json.RawMessage `json:"message,omitempty"`
	Error     string          `json:"error,omitempty"`
}

// Run prints until the context ends, or all there is.
func (t Tap) Run(ctx context.Context, s Settings) error {
	p, err := s.LoadPolicy()
	if err != nil {
		return err
	}
	var st stack
	defer st.close()
	bus, err := s.openBus(ctx, &st)
	if err != nil {
		return err
	}
	topic := t.Topic
	if !strings.HasPrefix(topic, p.Pipeline+".") {
		topic = p.Pipeline + "." + topic
	}
	print := t.envelopes(s.codec())
	if topic == (message.Topics{Pipeline: p.Pipeline}).Cursors() {
		print = t.cursors
	}
	if t.FromStart {
		records, err := bus.Replay(ctx, topic)
		if err != nil {
			return fmt.Errorf("reading topic %s: %w", topic, err)
		}
		return print(records)
	}
	reader, err := bus.Tail(ctx, topic)
	if err != nil {
		return fmt.Errorf("reading topic %s: %w", topic, err)
	}
	st.push(func() { _ = reader.Close() })
	for {
		records, err := reader.Fetch(ctx)
		if err != nil {
			return ended(ctx, err)
		}
		if err := print(records); err != nil {
			return err
		}
	}
}

func (t Tap) envelopes(codec message.Codec) func([]transport.Record) error {
	return func(records []transport.Record) error {
		for _, r := range records {
			l := lineOf(r)
			env, err := codec.Decode(r.Topic, r.Value)
			if err == nil {
				l.Message, err = protojson.Marshal(env)
			}
			if err != nil {
				l.Error = err.Error()
			}
			if err := json.NewEncoder(t.Out).Encode(l); err != nil {
				return err
			}
		}
		return nil
	}
}

// cursors prints the publisher's own records, which are JSON already.
func (t Tap) cursors(records []transport.Record) error {
	for _, r := range records {
		l := lineOf(r)
		if json.Valid(r.Value) {
			l.Message = r.Value
		}
		if err := json.NewEncoder(t.Out).Encode(l); err != nil {
			return err
		}
	}
	return nil
}

func lineOf(r transport.Record) line {
	return line{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, At: r.At.UTC().Format("2006-01-02T15:04:05.000Z07:00"), Key: string(r.Key)}
}
