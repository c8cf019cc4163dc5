package sidechannel

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/metric"
	"golang.org/x/sync/errgroup"

	"github.com/trickle-verify/trickle/measure"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/message/tricklepb"
	"github.com/trickle-verify/trickle/telemetry/pulse"
	"github.com/trickle-verify/trickle/tracing"
	"github.com/trickle-verify/trickle/transport"
)

const (
	defaultConcurrency = 8
	defaultReplyWithin = 10 * time.Second
	answeredFor        = time.Minute // a question that is asked again this soon was answered meanwhile
	commitPause        = 50 * time.Millisecond
	commitWithin       = 10 * time.Second // however many requests there are
)

// Handler answers requests. It is called from several goroutines; an answer that can't be given is an ErrorReply. The server fills in
// pipeline, id and consumer.
type Handler interface {
	Answer(ctx context.Context, request *tricklepb.Envelope) *tricklepb.Envelope
}

// ServerOptions of a Server. Pipeline is required.
type ServerOptions struct {
	Pipeline    string
	Concurrency int            // requests that are answered at the same time; default 8
	ReplyWithin time.Duration  // how long sending one answer may take; default 10 s
	Spans       *tracing.Spans // nil: none are made
	Logger      *slog.Logger
}

// Server is the publisher's end. Any number of them share the requests.
type Server struct {
	bus     Bus
	codec   message.Codec
	handler Handler
	options ServerOptions
	topics  message.Topics

	answered, skipped, unsent atomic.Uint64

	mu     sync.Mutex
	recent map[string]time.Time // when a request was answered, by id
	busy   map[string]struct{}  // requests that are being answered, by id

	uncommitted time.Time // since when there are requests to be committed; Run's own
}

// NewServer returns a server that does not listen yet. The requests' topic must exist before Run.
func NewServer(bus Bus, codec message.Codec, handler Handler, o ServerOptions) *Server {
	o.Concurrency = cmp.Or(o.Concurrency, defaultConcurrency)
	o.ReplyWithin = cmp.Or(o.ReplyWithin, defaultReplyWithin)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Server{
		bus: bus, codec: codec, handler: handler, options: o,
		topics: message.Topics{Pipeline: o.Pipeline}, recent: map[string]time.Time{}, busy: map[string]struct{}{},
	}
}

// Stats counts messages since the server was made.
type Stats struct {
	Answered uint64 // requests whose answer was sent
	Skipped  uint64 // messages that could not be read or believed, or are no requests
	Unsent   uint64 // answers that could not be sent; their askers ask again
}

// Stats returns the counts so far.
func (s *Server) Stats() Stats {
	return Stats{Answered: s.answered.Load(), Skipped: s.skipped.Load(), Unsent: s.unsent.Load()}
}

// Observe registers the counts with a meter.
func (s *Server) Observe(meter metric.Meter) error {
	set := measure.On(meter)
	skipped := set.Total("trickle.requests.skipped", "{message}", "Messages among the replicas' requests that could not be read or believed.")
	unsent := set.Total("trickle.answers.unsent", "{message}", "Answers that could not be sent; their askers ask again.")
	return set.Observe(func(_ context.Context, tell measure.Tell) {
		n := s.Stats()
		tell(skipped, float64(n.Skipped))
		tell(unsent, float64(n.Unsent))
	})
}

// Run answers until the context ends, which is no error. Requests that it was answering then are answered by whoever comes next.
func (s *Server) Run(ctx context.Context) (err error) {
	reader, err := s.bus.Group(ctx, s.topics.PublisherGroup(), s.topics.Requests())
	if err != nil {
		return ended(ctx, fmt.Errorf("listening for requests: %w", err))
	}
	defer func() { err = errors.Join(err, reader.Close()) }()
	var answers errgroup.Group
	answers.SetLimit(s.options.Concurrency)
	defer func() { _ = answers.Wait() }() // no answer fails the others
	ctx, end := pulse.Loop(ctx, "answering requests")
	defer end()
	for {
		pulse.Beat(ctx)
		if err := s.runOnce(ctx, reader, &answers); err != nil {
			return ended(ctx, fmt.Errorf("answering requests: %w", err))
		}
	}
}

// runOnce hands on what comes next, and commits as soon as nothing is being answered: a long answer holds up the commit, and no other answer. Where there
// always is one, it lets them come to an end every now and then.
func (s *Server) runOnce(ctx context.Context, reader transport.Reader, answers *errgroup.Group) error {
	records, err := s.fetch(ctx, reader)
	if err != nil {
		return err
	}
	s.forgetOld()
	for _, r := range records {
		request, err := s.read(r)
		if err != nil {
			s.skipped.Add(1)
			s.options.Logger.Warn("a request is skipped", "topic", r.Topic, "partition", r.Partition, "offset", r.Offset, "err", err)
			continue
		}
		if !s.take(request.GetId()) {
			continue
		}
		answers.Go(func() error {
			defer s.drop(request.GetId())
			s.answer(ctx, request, r.Headers)
			return nil
		})
	}
	if len(records) > 0 && s.uncommitted.IsZero() {
		s.uncommitted = time.Now()
	}
	if !s.uncommitted.IsZero() && time.Since(s.uncommitted) > commitWithin {
		_ = answers.Wait()
	}
	if s.uncommitted.IsZero() || s.answering() || ctx.Err() != nil {
		return ctx.Err()
	}
	s.uncommitted = time.Time{}
	return reader.Commit(ctx)
}

// fetch waits for requests; while answers are to be committed, for a moment only.
func (s *Server) fetch(ctx context.Context, reader transport.Reader) ([]transport.Record, error) {
	if s.uncommitted.IsZero() {
		return reader.Fetch(ctx)
	}
	moment, cancel := context.WithTimeout(ctx, commitPause)
	defer cancel()
	records, err := reader.Fetch(moment)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return nil, nil
	}
	return records, err
}

// take tells whether a question is to be answered: not where it is being answered, or was a short while ago, because its asker lost patience.
func (s *Server) take(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, answered := s.recent[id]
	_, taken := s.busy[id]
	if answered || taken {
		return false
	}
	s.busy[id] = struct{}{}
	return true
}

func (s *Server) drop(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.busy, id)
}

func (s *Server) answering() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.busy) > 0
}

// read decodes and checks a request.
func (s *Server) read(r transport.Record) (*tricklepb.Envelope, error) {
	request, err := s.codec.Decode(r.Topic, r.Value)
	if err != nil {
		return nil, err
	}
	switch {
	case request.GetPipeline() != s.options.Pipeline:
		return nil, fmt.Errorf("%w: it belongs to pipeline %q", message.ErrMalformed, request.GetPipeline())
	case message.RequestName(request) == "":
		return nil, fmt.Errorf("%w: %T is no request", message.ErrMalformed, request.GetBody())
	case request.GetId() == "":
		return nil, fmt.Errorf("%w: it has no id", message.ErrMalformed)
	}
	return request, message.CheckName("consumer", request.GetConsumer())
}

// answer answers one request. An answer that can't be sent in time is given up, so that a consumer without a topic holds nobody up.
func (s *Server) answer(ctx context.Context, request *tricklepb.Envelope, headers map[string]string) {
	began := time.Now()
	reply := s.handler.Answer(ctx, request)
	if ctx.Err() != nil {
		return // it comes again, after the restart
	}
	if s.options.Spans.On() && len(headers) > 0 {
		defer func() {
			s.options.Spans.Answered(ctx, headers, tracing.Answered{
				ID: request.GetId(), Request: message.RequestName(request), Table: request.GetTable(), Took: tracing.Since(began), LSN: reply.GetLsn(),
			})
		}()
	}
	err := s.send(ctx, request, reply, headers)
	if unsendable(err) {
		err = s.send(ctx, request, refusal(request, err), headers)
	}
	if err != nil {
		if ctx.Err() == nil {
			s.unsent.Add(1)
			s.options.Logger.Warn("an answer could not be sent", "consumer", request.GetConsumer(), "table", request.GetTable(), "err", err)
		}
		return
	}
	s.answered.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.recent[request.GetId()] = time.Now()
}

// unsendable tells that the answer itself can't travel, however often it is tried.
func unsendable(err error) bool {
	return errors.Is(err, transport.ErrTooLarge) || errors.Is(err, errUnencodable)
}

var errUnencodable = errors.New("the answer can't be encoded")

func refusal(request *tricklepb.Envelope, reason error) *tricklepb.Envelope {
	return &tricklepb.Envelope{
		Table: request.GetTable(),
		Body: &tricklepb.Envelope_ErrorReply{ErrorReply: &tricklepb.ErrorReply{
			Code: tricklepb.ErrorCode_ERROR_CODE_FAILED, Reason: strings.ToValidUTF8(reason.Error(), "?"),
		}},
	}
}

func (s *Server) send(ctx context.Context, request, reply *tricklepb.Envelope, headers map[string]string) error {
	reply.Pipeline, reply.Id, reply.Consumer = s.options.Pipeline, request.GetId(), request.GetConsumer()
	bounded, cancel := context.WithTimeout(ctx, s.options.ReplyWithin)
	defer cancel()
	topic := s.topics.Replies(reply.GetConsumer())
	value, err := s.codec.Encode(topic, reply)
	if err != nil {
		return fmt.Errorf("%w: %w", errUnencodable, err)
	}
	return s.bus.Send(bounded, transport.Record{Topic: topic, Key: []byte(reply.GetId()), Value: value, Headers: tracing.Echo(headers)})
}

func (s *Server) forgetOld() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, at := range s.recent {
		if time.Since(at) > answeredFor {
			delete(s.recent, id)
		}
	}
}
