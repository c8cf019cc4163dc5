package scanner

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/message/tricklepb"
	"github.com/trickle-verify/trickle/transport"
)

// Announce tells replicas of tables that are not scanned, and why, or that they are again. It returns once all of it is durable.
func (s *Scanner) Announce(ctx context.Context, tables []Found) error {
	at, err := s.Source.Sample(ctx) // the clock that readings have too
	if err != nil {
		return err
	}
	p := s.rules()
	topic := message.Topics{Pipeline: p.Pipeline}.Verify()
	records := make([]transport.Record, len(tables))
	for i, t := range tables {
		env := &tricklepb.Envelope{
			Pipeline: p.Pipeline, Source: s.Identity.String(), Table: t.Name, Id: uuid.NewString(),
			Body: &tricklepb.Envelope_Paused{Paused: &tricklepb.Paused{Reason: message.Line(t.Paused), At: timestamppb.New(at.Time)}},
		}
		value, err := s.Codec.Encode(topic, env)
		if err != nil {
			return err
		}
		records[i] = transport.Record{Topic: topic, Key: []byte(t.Name + "/paused"), Value: value}
	}
	if err := s.Sender.Send(ctx, records...); err != nil {
		return fmt.Errorf("telling replicas which tables are not scanned: %w", err)
	}
	return nil
}
