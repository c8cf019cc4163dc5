package detector

import (
	"context"
	"errors"

	"github.com/trickle-verify/trickle/gate"
	"github.com/trickle-verify/trickle/message/tricklepb"
)

// Path asks the publisher how far the reader of a replication slot has got, for the gate.
func (s *Source) Path(ctx context.Context, slot string) (gate.Path, error) {
	reply, err := s.ask(ctx, &tricklepb.Envelope{Body: &tricklepb.Envelope_PathRequest{PathRequest: &tricklepb.PathRequest{Slot: slot}}})
	if err != nil {
		return gate.Path{}, err
	}
	body := reply.GetPathReply()
	if body == nil || body.GetSlot() != slot || reply.GetReadAt() == nil {
		return gate.Path{}, errors.New("its answer is about something else")
	}
	p := gate.Path{Clock: reply.GetReadAt().AsTime(), Timeline: reply.GetTimeline(), Reason: body.GetReason()}
	if at := body.GetThrough(); at != nil {
		p.Through = at.AsTime()
	}
	return p, nil
}
