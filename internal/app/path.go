package app

import (
	"cmp"
	"context"
	"strings"
	"time"

	"go.opentelemetry.io/otel/metric"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/trickle-verify/trickle/gate"
	"github.com/trickle-verify/trickle/measure"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/message/tricklepb"
	"github.com/trickle-verify/trickle/scanner"
	"github.com/trickle-verify/trickle/slot"
	"github.com/trickle-verify/trickle/transport"
)

// answers are the publisher's: the scanner's about tables, the watch's about the replication slot.
type answers struct {
	*scanner.Scanner
	slot *slot.Watch
	took measure.Recorder
}

func measuredAnswers(meter metric.Meter) measure.Recorder {
	return measure.On(meter).Seconds("trickle.answer.duration", "How long answering a request of a replica took, by what was asked for (`hello`, `key_digests`, `refetch`, `copy`, `boundaries`, `path`, `other`) and what "+
		"came of it (`answered`, `unstable`, `unfenced`, `unknown_table`, `refused`, `failed`).", "request", "result")
}

// came names what came of it.
func came(reply *tricklepb.Envelope) string {
	refusal := reply.GetErrorReply()
	if refusal == nil {
		return "answered"
	}
	name, ok := tricklepb.ErrorCode_name[int32(refusal.GetCode())]
	if !ok {
		return "failed"
	}
	return strings.ToLower(strings.TrimPrefix(name, "ERROR_CODE_"))
}

// Answer answers one request of a replica.
func (a answers) Answer(ctx context.Context, req *tricklepb.Envelope) *tricklepb.Envelope {
	began := time.Now()
	reply := a.answer(ctx, req)
	a.took.Record(ctx, time.Since(began).Seconds(), cmp.Or(message.RequestName(req), "other"), came(reply))
	return reply
}

func (a answers) answer(ctx context.Context, req *tricklepb.Envelope) *tricklepb.Envelope {
	q := req.GetPathRequest()
	if q == nil {
		return a.Scanner.Answer(ctx, req)
	}
	reply := &tricklepb.Envelope{Source: a.Identity.String()}
	s, err := a.slot.Look(ctx, q.GetSlot())
	if err != nil {
		reply.Body = &tricklepb.Envelope_ErrorReply{ErrorReply: &tricklepb.ErrorReply{Code: tricklepb.ErrorCode_ERROR_CODE_FAILED, Reason: err.Error()}}
		return reply
	}
	body := &tricklepb.PathReply{Slot: q.GetSlot(), Reason: s.Reason}
	if !s.Through.IsZero() {
		body.Through = timestamppb.New(s.Through)
	}
	reply.ReadAt, reply.Timeline, reply.Body = timestamppb.New(s.Clock), s.Timeline, &tricklepb.Envelope_PathReply{PathReply: body}
	return reply
}

// groups reads consumer groups for the gate.
type groups struct{ *transport.Follower }

func (g groups) Group(ctx context.Context, name string) (gate.Group, error) {
	p, err := g.Progress(ctx, name)
	out := gate.Group{Members: p.Members, Partitions: make(map[gate.Partition]gate.Progress, len(p.Partitions))}
	for _, at := range p.Partitions {
		out.Partitions[gate.Partition{Topic: at.Topic, ID: at.Partition}] = gate.Progress{End: at.End, Done: at.Done, Since: at.Since}
	}
	return out, err
}

// follows gives what reads consumer groups, nil where there is no Kafka.
func (c *consumer) follows() gate.Groups {
	if kafka, ok := c.bus.(*transport.Kafka); ok {
		return playing{groups{kafka.Follow()}, message.Topics{Pipeline: c.policy.Load().Pipeline}.PlayGroup(c.name)}
	}
	return nil
}

// playing shows the group under which trickle itself commits what it has played forward into this replica as one with a member: which topics it reads is known, though nobody
// has joined. When nobody plays any more, what it has committed falls behind.
type playing struct {
	gate.Groups
	group string
}

func (p playing) Group(ctx context.Context, name string) (gate.Group, error) {
	g, err := p.Groups.Group(ctx, name)
	if name == p.group {
		g.Members = max(g.Members, 1)
	}
	return g, err
}
