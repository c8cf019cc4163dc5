package app

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/message/tricklepb"
	"github.com/trickle-verify/trickle/policy"
	"github.com/trickle-verify/trickle/postgres"
	"github.com/trickle-verify/trickle/transport"
)

// Tap prints a topic's messages as JSON lines: those that come from now on, or with fromStart only those that are there.
type Tap struct {
	Topic     string // verify, requests, cursors, replies.CONSUMER, or a whole name
	FromStart bool
	Filter    TapFilter
	Out       io.Writer
	Told      io.Writer // gets, for a person, how many messages of those that are there were printed; nil: nobody is told

	privacy policy.Privacy
	read    int
	printed int
}

// line is one message of a tap.
type line struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Offset    int64  `json:"offset"`
	At        string `json:"at"`
	Key       string `json:"key,omitempty"`
	Kind      string `json:"kind,omitempty"`
	Trace     string `json:"traceparent,omitempty"`
	Message   any    `json:"message,omitempty"`
	Error     string `json:"error,omitempty"`
}

// errEnough ends a tap that has printed what it may.
var errEnough = errors.New("the limit is reached")

// Run prints until the context ends, or all there is, or the limit is reached.
func (t Tap) Run(ctx context.Context, s Settings) error {
	p, err := s.LoadPolicy()
	if err != nil {
		return err
	}
	t.privacy = p.Privacy
	topics := message.Topics{Pipeline: p.Pipeline}
	topic := t.Topic
	if topic == "replies" {
		if t.Filter.Consumer == "" {
			return errors.New("--topic replies: each replica has a topic of its own: give --consumer NAME too")
		}
		topic = topics.Replies(t.Filter.Consumer)
	}
	if !strings.HasPrefix(topic, p.Pipeline+".") {
		topic = p.Pipeline + "." + topic
	}
	if t.Filter, err = t.Filter.checked(topic, topics); err != nil {
		return err
	}
	var st stack
	defer st.close()
	bus, err := s.openBus(ctx, &st)
	if err != nil {
		return err
	}
	print := t.envelopes(s.codec())
	if topic == topics.Cursors() {
		print = t.cursors
	}
	err = t.follow(ctx, bus, topic, print)
	switch {
	case errors.Is(err, errEnough):
		return nil
	case err == nil && t.FromStart && t.Told != nil:
		_, err = fmt.Fprintln(t.Told, t.sum(topic, p))
	}
	return err
}

// sum says what a tap of what is there came to.
func (t *Tap) sum(topic string, p *policy.Policy) string {
	if t.read == 0 {
		return "topic " + topic + " holds no message"
	}
	text := fmt.Sprintf("%d of the %d messages of %s are like that", t.printed, t.read, topic)
	if t.printed > 0 {
		return text
	}
	for _, table := range t.Filter.Tables {
		n := postgres.ParseName(table)
		if _, ok := p.For(n.Schema, n.Table); !ok {
			text += "; no entry of the policy matches --table " + table
		}
	}
	return text
}

func (t *Tap) follow(ctx context.Context, bus *transport.Kafka, topic string, print func([]transport.Record) error) error {
	if t.FromStart {
		records, err := bus.Replay(ctx, topic)
		if err != nil {
			return fmt.Errorf("reading topic %s: %w", topic, err)
		}
		t.read = len(records)
		return print(records)
	}
	reader, err := bus.TailSince(ctx, topic, t.Filter.Since)
	if err != nil {
		return fmt.Errorf("reading topic %s: %w", topic, err)
	}
	defer func() { _ = reader.Close() }() // never fails
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

// print writes one line, unless it is too old.
func (t *Tap) print(r transport.Record, l line) error {
	if r.At.Before(t.Filter.Since) {
		return nil
	}
	l.Topic, l.Partition, l.Offset, l.At, l.Key, l.Trace = r.Topic, r.Partition, r.Offset, r.At.UTC().Format("2006-01-02T15:04:05.000Z07:00"), string(r.Key), r.Headers["traceparent"]
	if err := json.NewEncoder(t.Out).Encode(l); err != nil {
		return err
	}
	if t.printed++; t.printed == t.Filter.Limit {
		return errEnough
	}
	return nil
}

func (t *Tap) envelopes(codec message.Codec) func([]transport.Record) error {
	return func(records []transport.Record) error {
		for _, r := range records {
			l := line{Kind: unreadable}
			env, err := codec.Decode(r.Topic, r.Value)
			if err == nil {
				l.Kind = kindOfEnvelope(env)
			} else {
				env, l.Error = nil, err.Error()
			}
			if !t.Filter.takes(env, policy.Privacy{Keys: "hash"}.Key) {
				continue
			}
			if env != nil {
				if l.Message, err = veiledEnvelope(env, t.privacy); err != nil {
					l.Error = err.Error()
				}
			}
			if err := t.print(r, l); err != nil {
				return err
			}
		}
		return nil
	}
}

// cursors prints the publisher's own records, which are JSON already.
func (t *Tap) cursors(records []transport.Record) error {
	for _, r := range records {
		var l line
		if tree, err := decoded(r.Value); err == nil {
			if !t.tabled(tree) {
				continue
			}
			l.Message = veiledBounds(tree, t.privacy)
		} else if len(t.Filter.Tables) > 0 {
			continue
		}
		if err := t.print(r, l); err != nil {
			return err
		}
	}
	return nil
}

// tabled tells whether a publisher's record is about one of the tables, if some are asked for.
func (t *Tap) tabled(tree any) bool {
	if len(t.Filter.Tables) == 0 {
		return true
	}
	record, _ := tree.(map[string]any)
	for _, name := range []string{"table", "name"} {
		for _, table := range t.Filter.Tables {
			if record[name] == table {
				return true
			}
		}
	}
	return false
}

func decoded(text []byte) (tree any, err error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	err = d.Decode(&tree)
	return tree, err
}

// veiledBounds is a publisher's record with the bounds of its ranges, which are keys, as they may be shown.
func veiledBounds(tree any, p policy.Privacy) any {
	switch v := tree.(type) {
	case map[string]any:
		for name, inner := range v {
			list, isList := inner.([]any)
			if !isList || !strings.EqualFold(name, "lo") && !strings.EqualFold(name, "hi") {
				v[name] = veiledBounds(inner, p)
				continue
			}
			key := make(message.Key, len(list))
			for i, part := range list {
				key[i], _ = part.(string)
			}
			v[name] = veiledKey(key, p)
		}
	case []any:
		for i := range v {
			v[i] = veiledBounds(v[i], p)
		}
	}
	return tree
}

// veiledKey is a key as it may be shown: its columns, or one word in their place.
func veiledKey(k message.Key, p policy.Privacy) []string {
	if p.Keys == "show" {
		return k
	}
	return []string{p.Key(k.String())}
}

// veiledEnvelope is a message as JSON, with its keys and values as they may be shown. Values are text, NULL is null; rows that travel as one block are left out unless both may be shown.
func veiledEnvelope(env *tricklepb.Envelope, p policy.Privacy) (any, error) {
	env, _ = proto.Clone(env).(*tricklepb.Envelope)
	walk(env.ProtoReflect(), func(m protoreflect.Message) bool {
		switch v := m.Interface().(type) {
		case *tricklepb.Key:
			v.Values = veiledKey(v.GetValues(), p)
			return false
		case *tricklepb.Value:
			if v.Text != nil {
				v.Text = []byte(p.Value(string(v.GetText())))
			}
			return false
		case *tricklepb.StreamReply:
			if p.Keys != "show" || p.Values != "show" {
				v.Data = nil
			}
		}
		return true
	})
	text, err := protojson.Marshal(env)
	if err != nil {
		return nil, err
	}
	tree, err := decoded(text)
	return spelled(tree), err
}

// spelled writes values as text, which protobuf's JSON has as objects of base 64.
func spelled(tree any) any {
	switch v := tree.(type) {
	case map[string]any:
		for name, inner := range v {
			list, isList := inner.([]any)
			if name != "values" || !isList {
				v[name] = spelled(inner)
				continue
			}
			for i, value := range list {
				object, isValue := value.(map[string]any)
				if !isValue { // a key's
					continue
				}
				list[i] = nil
				if coded, ok := object["text"].(string); ok {
					if text, err := base64.StdEncoding.DecodeString(coded); err == nil {
						list[i] = string(text)
					}
				}
			}
		}
	case []any:
		for i := range v {
			v[i] = spelled(v[i])
		}
	}
	return tree
}

// TapSince reads --since.
func TapSince(text string) (time.Time, error) { return Moment("--since", text, time.Now()) }
