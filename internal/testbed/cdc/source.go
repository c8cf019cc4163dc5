package cdc

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/twmb/franz-go/pkg/kgo"
)

const statusInterval = 200 * time.Millisecond

// Source carries changes from the slot to the topic.
type Source struct {
	cfg      Config
	produced atomic.Int64
}

// NewSource returns a source; Prepare must have run.
func NewSource(cfg Config) *Source { return &Source{cfg: cfg.withDefaults()} }

// Produced is the number of events the broker has acknowledged, repeated ones included.
func (s *Source) Produced() int64 { return s.produced.Load() }

// Run streams until the context ends and reconnects after every failure. It may be called again after it has returned.
func (s *Source) Run(ctx context.Context) {
	failed := func(err error) { s.cfg.Log.Warn("cdc source starts over", "err", err) }
	retry(ctx, failed, s.stream)
}

// stream reads the slot from its confirmed position until something fails.
func (s *Source) stream(ctx context.Context) (err error) {
	client, err := kgo.NewClient(append([]kgo.Opt{
		kgo.DefaultProduceTopic(s.cfg.Topic),
		kgo.ProducerLinger(0),
		kgo.ProducerBatchMaxBytes(maxMessageBytes),
		kgo.RequiredAcks(kgo.AllISRAcks()),
	}, s.cfg.Kafka...)...)
	if err != nil {
		return err
	}
	defer client.Close()
	conn, err := s.startReplication(ctx)
	if err != nil {
		return fmt.Errorf("slot %s: %w", s.cfg.Slot, err)
	}
	defer func() { err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))) }()
	r := &run{source: s, client: client, conn: conn, decoder: newDecoder()}
	return r.loop(ctx)
}

func (s *Source) startReplication(ctx context.Context) (*pgconn.PgConn, error) {
	cfg, err := pgconn.ParseConfig(s.cfg.Source)
	if err != nil {
		return nil, err
	}
	cfg.RuntimeParams["replication"] = "database"
	conn, err := pgconn.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, err
	}
	conn.Frontend().Send(&pgproto3.Query{String: fmt.Sprintf(
		`START_REPLICATION SLOT %s LOGICAL 0/0 (proto_version '1', messages 'true', publication_names '%s')`,
		pgx.Identifier{s.cfg.Slot}.Sanitize(), pgx.Identifier{s.cfg.Slot}.Sanitize())})
	err = conn.Frontend().Flush()
	for err == nil {
		var msg pgproto3.BackendMessage
		if msg, err = conn.ReceiveMessage(ctx); err != nil {
			break
		}
		switch msg := msg.(type) {
		case *pgproto3.CopyBothResponse:
			return conn, nil
		case *pgproto3.ErrorResponse:
			err = pgconn.ErrorResponseToPgError(msg)
		}
	}
	return nil, errors.Join(err, conn.Close(context.WithoutCancel(ctx)))
}

// run is one connection's worth of streaming.
type run struct {
	source  *Source
	client  *kgo.Client
	conn    *pgconn.PgConn
	decoder *decoder

	mu      sync.Mutex
	flushed lsn        // everything before it is on the topic
	sent    int        // events given to the client
	acked   int        // of those, acknowledged by the broker, in order
	waiting []waypoint // positions reached when so many events were sent
	failure error      // the broker's; nothing is confirmed after it
}

type waypoint struct {
	sent int
	end  lsn
}

func (r *run) loop(ctx context.Context) error {
	next := time.Now().Add(statusInterval)
	for {
		if !time.Now().Before(next) {
			if err := r.sendStatus(); err != nil {
				return err
			}
			next = time.Now().Add(statusInterval)
		}
		msg, err := r.receive(ctx, next)
		if err != nil {
			return err
		}
		copied, ok := msg.(*pgproto3.CopyData)
		if !ok {
			if failure, ok := msg.(*pgproto3.ErrorResponse); ok {
				return pgconn.ErrorResponseToPgError(failure)
			}
			continue
		}
		wantsReply, err := r.handle(ctx, copied.Data)
		if err != nil {
			return err
		}
		if wantsReply {
			next = time.Now()
		}
	}
}

// receive returns nil without an error when nothing came before the deadline.
func (r *run) receive(ctx context.Context, deadline time.Time) (pgproto3.BackendMessage, error) {
	waiting, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	msg, err := r.conn.ReceiveMessage(waiting)
	if err != nil && ctx.Err() == nil && pgconn.Timeout(err) {
		return nil, nil
	}
	return msg, err
}

// handle takes one replication message and tells whether the server asks for our position.
func (r *run) handle(ctx context.Context, data []byte) (wantsReply bool, err error) {
	in := &reader{data: data}
	switch in.byte() {
	case 'w':
		in.bytes(24) // start, end, time
		if in.short {
			return false, errShort
		}
		return false, r.carry(ctx, in.data)
	case 'k':
		end := lsn(in.uint64())
		in.uint64() // time
		wantsReply = in.byte() == 1
		if in.short {
			return false, errShort
		}
		if !r.decoder.inside {
			r.reached(end)
		}
	}
	return wantsReply, nil
}

// carry sends the events of one pgoutput message. The broker keeps the order; its acknowledgements come in that order too.
func (r *run) carry(ctx context.Context, message []byte) error {
	events, end, err := r.decoder.decode(message)
	if err != nil {
		return err
	}
	for _, e := range events {
		value, err := json.Marshal(e)
		if err != nil {
			return err
		}
		r.mu.Lock()
		r.sent++
		r.mu.Unlock()
		r.client.Produce(ctx, &kgo.Record{Key: []byte(e.Table), Value: value}, r.acknowledged)
	}
	if end != 0 {
		r.reached(end)
	}
	return r.broken()
}

// acknowledged is called by the client in the order of the events.
func (r *run) acknowledged(_ *kgo.Record, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil || r.failure != nil {
		if r.failure == nil {
			r.failure = fmt.Errorf("produce to %s: %w", r.source.cfg.Topic, err)
		}
		return
	}
	r.acked++
	r.source.produced.Add(1)
	r.advance()
}

// reached notes that the stream was read up to end, which is confirmed once everything sent before is acknowledged.
func (r *run) reached(end lsn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := len(r.waiting); n > 0 && r.waiting[n-1].sent == r.sent {
		r.waiting[n-1].end = max(r.waiting[n-1].end, end)
	} else {
		r.waiting = append(r.waiting, waypoint{sent: r.sent, end: end})
	}
	r.advance()
}

// advance needs the lock.
func (r *run) advance() {
	for len(r.waiting) > 0 && r.waiting[0].sent <= r.acked {
		r.flushed = max(r.flushed, r.waiting[0].end)
		r.waiting = r.waiting[1:]
	}
}

func (r *run) broken() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failure
}

// sendStatus confirms to the server what is on the topic; it may forget the log before that.
func (r *run) sendStatus() error {
	if err := r.broken(); err != nil {
		return err
	}
	r.mu.Lock()
	at := uint64(r.flushed)
	r.mu.Unlock()
	status := []byte{'r'}
	for range 3 { // written, flushed, applied
		status = binary.BigEndian.AppendUint64(status, at)
	}
	status = binary.BigEndian.AppendUint64(status, 0) // our clock, which nobody needs
	status = append(status, 0)                        // no reply wanted
	r.conn.Frontend().Send(&pgproto3.CopyData{Data: status})
	return r.conn.Frontend().Flush()
}
