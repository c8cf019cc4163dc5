// Package sidechannel is the line on which one replica asks the publisher, and is answered where no other replica hears it.
//
// It decides how a question finds its answer: by an id, asked again until it is answered. What always holds: Ask returns the answer to its
// own question, a believable one, or an error; a question that the publisher took before it died is answered after it is back; an answer
// may be given twice, as questions only read. A message that can't be read or believed is counted, logged with its place, and skipped. When
// the publisher is away, Ask waits until its context ends.
package sidechannel

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/message/tricklepb"
	"github.com/trickle-verify/trickle/telemetry/pulse"
	"github.com/trickle-verify/trickle/tracing"
	"github.com/trickle-verify/trickle/transport"
)

const defaultResend = 5 * time.Second

// ErrStopped is returned by Ask when Run has ended.
var ErrStopped = errors.New("the side channel has stopped")

// Error is the publisher's answer that it has no answer.
type Error struct {
	Code   tricklepb.ErrorCode
	Reason string
}

// Refused is the code, for callers that know only the method.
func (e *Error) Refused() tricklepb.ErrorCode { return e.Code }

func (e *Error) Error() string {
	return fmt.Sprintf("the publisher answered %s: %s", e.Code, e.Reason)
}

// Bus is what both ends need of a transport.
type Bus interface {
	Send(ctx context.Context, records ...transport.Record) error
	Group(ctx context.Context, group string, topics ...string) (transport.Reader, error)
	Tail(ctx context.Context, topic string) (transport.Reader, error)
}

// Options of a Client. Pipeline and Consumer are required.
type Options struct {
	Pipeline string
	Consumer string
	Resend   time.Duration // how long to wait for an answer before asking again; default 5 s
	Logger   *slog.Logger
}

// Client is the replica's end. Run it, then Ask from any number of goroutines.
type Client struct {
	bus     Bus
	codec   message.Codec
	options Options
	topics  message.Topics

	ready   chan struct{} // closed once Run listens
	stopped chan struct{} // closed once Run has ended
	skipped atomic.Uint64

	mu      sync.Mutex
	waiting map[string]chan<- *tricklepb.Envelope // by id
}

// New returns a client that does not listen yet. The topics must exist before Run.
func New(bus Bus, codec message.Codec, o Options) *Client {
	o.Resend = cmp.Or(o.Resend, defaultResend)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Client{
		bus: bus, codec: codec, options: o, topics: message.Topics{Pipeline: o.Pipeline},
		ready: make(chan struct{}), stopped: make(chan struct{}), waiting: map[string]chan<- *tricklepb.Envelope{},
	}
}

// Ready is closed once answers can be heard.
func (c *Client) Ready() <-chan struct{} { return c.ready }

// Skipped is how many messages could not be read or believed so far.
func (c *Client) Skipped() uint64 { return c.skipped.Load() }

// Run listens until the context ends, which is no error. It may be called once.
func (c *Client) Run(ctx context.Context) (err error) {
	defer close(c.stopped)
	if err := message.CheckName("consumer", c.options.Consumer); err != nil {
		return err
	}
	reader, err := c.bus.Tail(ctx, c.topics.Replies(c.options.Consumer))
	if err != nil {
		return ended(ctx, fmt.Errorf("listening for answers: %w", err))
	}
	defer func() { err = errors.Join(err, reader.Close()) }()
	close(c.ready)
	ctx, end := pulse.Loop(ctx, "hearing the publisher's answers")
	defer end()
	for {
		pulse.Beat(ctx)
		if err := c.runOnce(ctx, reader); err != nil {
			return ended(ctx, fmt.Errorf("listening for answers: %w", err))
		}
	}
}

// ended is nil when the context's end is the reason.
func ended(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		return err
	}
	return nil
}

func (c *Client) runOnce(ctx context.Context, reader transport.Reader) error {
	records, err := reader.Fetch(ctx)
	if err != nil {
		return err
	}
	for _, r := range records {
		env, err := c.codec.Decode(r.Topic, r.Value)
		if err != nil {
			c.skipped.Add(1)
			c.options.Logger.Warn("an answer is skipped", "topic", r.Topic, "partition", r.Partition, "offset", r.Offset, "err", err)
			continue
		}
		c.deliver(env)
	}
	return nil
}

// deliver hands an answer to whoever waits for it. Answers to other instances of the consumer, and second answers, find nobody.
func (c *Client) deliver(env *tricklepb.Envelope) {
	if env.GetPipeline() != c.options.Pipeline || !isReply(env) {
		return
	}
	c.mu.Lock()
	answer, ok := c.waiting[env.GetId()]
	delete(c.waiting, env.GetId())
	c.mu.Unlock()
	if ok {
		answer <- env // has room for the one answer it ever gets
	}
}

func isReply(env *tricklepb.Envelope) bool {
	switch env.GetBody().(type) {
	case *tricklepb.Envelope_HelloReply, *tricklepb.Envelope_KeyDigestsReply, *tricklepb.Envelope_RowsReply,
		*tricklepb.Envelope_BoundariesReply, *tricklepb.Envelope_StreamReply, *tricklepb.Envelope_ErrorReply, *tricklepb.Envelope_PathReply:
		return true
	}
	return false
}

// subject is what a request is about, for errors.
func subject(env *tricklepb.Envelope) string { return cmp.Or(env.GetTable(), "the replication slot") }

// Ask sends the request and returns its answer. It fills in id, consumer and pipeline, waits for Run to listen, and asks again every
// Resend until an answer comes or the context ends. An answer that is an error is returned as *Error.
func (c *Client) Ask(ctx context.Context, env *tricklepb.Envelope) (*tricklepb.Envelope, error) {
	defer pulse.Away(ctx)() // the publisher may be, for as long as it likes
	select {
	case <-c.ready:
	case <-c.stopped:
		return nil, ErrStopped
	case <-ctx.Done():
		return nil, fmt.Errorf("asking the publisher about %s: %w", subject(env), ctx.Err())
	}
	request := proto.CloneOf(env)
	request.Id, request.Consumer, request.Pipeline = uuid.NewString(), c.options.Consumer, c.options.Pipeline
	value, err := c.codec.Encode(c.topics.Requests(), request)
	if err != nil {
		return nil, err
	}
	headers := tracing.Question(ctx)
	answer := make(chan *tricklepb.Envelope, 1)
	c.mu.Lock()
	c.waiting[request.GetId()] = answer
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.waiting, request.GetId())
		c.mu.Unlock()
	}()
	for {
		record := transport.Record{Topic: c.topics.Requests(), Key: []byte(request.GetId()), Value: value, Headers: headers}
		if err := c.bus.Send(ctx, record); err != nil {
			return nil, fmt.Errorf("asking the publisher about %s: %w", subject(env), err)
		}
		again := time.NewTimer(c.options.Resend)
		select {
		case reply := <-answer:
			again.Stop()
			if e := reply.GetErrorReply(); e != nil {
				return nil, &Error{Code: e.GetCode(), Reason: e.GetReason()}
			}
			return reply, nil
		case <-again.C:
		case <-c.stopped:
			again.Stop()
			return nil, ErrStopped
		case <-ctx.Done():
			again.Stop()
			return nil, fmt.Errorf("waiting for the publisher's answer about %s: %w; is trickle running?", subject(env), ctx.Err())
		}
	}
}
