// Package detector finds drift in one replica, proves it, and corrects it while CDC goes on.
//
// It decides what a verification message means for the replica: equal; or which exact keys are suspect; which of these have drifted and not
// merely lagged; and when there is so much of it that a resync is asked for. What always holds: a row is written only from a source read that
// began after the replica's row was observed, only if the row still is that version, and together with its journal entry; a correction
// is closed only by a source read that began after its write and agrees, or because CDC moved the row on; a message's offset is committed
// only after its suspects are durable, or after its table was paused with the reason, and then its range does not count as verified; nothing is written for another source, another schema, or while the gate is closed;
// what the publisher says of tables that it does not scan is kept for people, and changes nothing else. When the publisher or the replica can't be reached it waits and tries again; what it holds is in the ledger, so another instance can go on.
//
// The protocol is observe, refetch, compare-and-set, confirm; package drift has the proof rules.
package detector

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/drift"
	"github.com/trickle-verify/trickle/entry"
	"github.com/trickle-verify/trickle/gate"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/message/tricklepb"
	"github.com/trickle-verify/trickle/policy"
	"github.com/trickle-verify/trickle/tracing"
)

// Replica is what is verified. Package replica has the one for Postgres; embed the detector over anything else by implementing it.
type Replica interface {
	// Name is what the replica calls a source table, false where it is not to be verified here.
	Name(table string) (string, bool)
	// Fit prepares for a schema and returns the digest of its probe row. An error that Incomparable recognises pauses the table.
	Fit(ctx context.Context, table string, schema *tricklepb.Schema) (probe uint64, err error)
	// Thumbprint sums a range without the keys left out.
	Thumbprint(ctx context.Context, table string, r message.Range, leftOut []message.Key, kind digest.Kind) (digest.Thumbprint, error)
	// Range observes rows in key order, at most limit, and says which part of the range they are all of.
	Range(ctx context.Context, table string, r message.Range, limit int, kind digest.Kind) ([]drift.Observed, message.Range, error)
	// Observe reads keys: one observation for each, in that order.
	Observe(ctx context.Context, table string, keys []message.Key, kind digest.Kind) ([]drift.Observed, error)
	// Write carries out changes, each only if the row still is as observed, each with its journal entry; one outcome for each.
	Write(ctx context.Context, table string, changes []drift.Change, kind digest.Kind) ([]drift.Outcome, error)
	// Incomparable tells an error of Fit that will last until somebody changes a schema from one that may pass.
	Incomparable(err error) bool
	// Stale tells an error that means: the table changed since Fit; fit it again.
	Stale(err error) bool
	// KeyAtFault tells an error that one key is to blame for: the replica can't hold it, or can't read it.
	KeyAtFault(err error) bool
	// Unreachable tells an error that has nothing to do with the table at hand: whatever is tried now will fail.
	Unreachable(err error) bool
}

// Refusal is an Asker's error for a question that the publisher answered with a refusal, which concerns the table asked about. Any other error of an
// Asker means that there was no answer.
type Refusal interface {
	error
	Refused() tricklepb.ErrorCode
}

// Ledger is what is remembered; see package ledger.
type Ledger interface {
	Pin(ctx context.Context, source string) (string, error)
	Refused(ctx context.Context, reason string) error
	Table(ctx context.Context, table, replica string) error
	Pause(ctx context.Context, table, reason string) error
	// Unscanned notes what the publisher says of a table. What is older than what was said of it last, or was recorded of it, changes nothing; and Record
	// of a range that was read later ends it.
	Unscanned(ctx context.Context, u entry.Unscanned) error
	Record(ctx context.Context, v entry.Verified, suspects []drift.Suspect, due time.Duration) error
	Covers(ctx context.Context, table string) (bool, error)
	Due(ctx context.Context, limit int, lease time.Duration) (string, []drift.Suspect, error)
	Settle(ctx context.Context, table string, s entry.Settled) error
	Suspects(ctx context.Context, resyncID string) (int, error)
	Count(ctx context.Context, table string, found []entry.Discrepancy) error
	Tally(ctx context.Context, table string, window time.Duration) (entry.Tally, error)
	Forget(ctx context.Context, window time.Duration) error
	Request(ctx context.Context, w entry.Wish) (bool, error)
	Open(ctx context.Context, age time.Duration, limit int) (string, []entry.OpenCorrection, error)
	// Close ends corrections, and returns those that it was who ended them.
	Close(ctx context.Context, outcome string, ids []int64) (closed []int64, err error)
	Braked(ctx context.Context) (string, error)
	SaveGate(ctx context.Context, g entry.Gate, window time.Duration, readAt time.Time) error
	Baseline(ctx context.Context, b entry.Baseline) error
}

// Asker puts a question to the publisher; see package sidechannel.
type Asker interface {
	Ask(ctx context.Context, env *tricklepb.Envelope) (*tricklepb.Envelope, error)
}

// Parts are what a detector is made of.
type Parts struct {
	Replica Replica
	Ledger  Ledger
	Asker   Asker
	Gate    *gate.Gate
	Log     *slog.Logger
	// Self is the identity of the replica's own database, so that it is never verified against itself.
	Self string
	// NewID names resyncs.
	NewID func() string
	// Spans are made of corrections, and of ranges that the publisher picked; nil: none.
	Spans *tracing.Spans
	// Pending bounds the suspects that may wait before messages are held; 0 for 20,000.
	Pending int
}

// Detector verifies one replica. Its methods are safe for concurrent use.
type Detector struct {
	Parts
	source    *Source
	corrector *Corrector

	mu     sync.Mutex
	policy *policy.Policy
	logged map[string]bool // refusals that were logged
}

// New makes a detector for a policy.
func New(p *policy.Policy, parts Parts) *Detector {
	if parts.Pending == 0 {
		parts.Pending = 20_000
	}
	d := &Detector{Parts: parts, policy: p, logged: make(map[string]bool)}
	d.source = NewSource(parts)
	d.corrector = &Corrector{
		Replica: parts.Replica, Ledger: parts.Ledger, Source: d.source, Gate: parts.Gate, Log: parts.Log, Spans: parts.Spans,
		Privacy: func() policy.Privacy { return d.rules().Privacy },
	}
	return d
}

// Source is the detector's view of the source, for whoever else corrects this replica.
func (d *Detector) Source() *Source { return d.source }

// Corrector writes to this replica.
func (d *Detector) Corrector() *Corrector { return d.corrector }

// Apply replaces the policy.
func (d *Detector) Apply(p *policy.Policy) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.policy = p
	d.source.forgetAll() // tables may be mapped and compared otherwise now
}

func (d *Detector) rules() *policy.Policy {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.policy
}

// Refuse counts a message that could not be read or believed and logs each reason once with where it was.
func (d *Detector) Refuse(ctx context.Context, where string, err error) error {
	d.logOnce("refused a message", slog.String("message", where), err)
	return d.Ledger.Refused(ctx, where+": "+err.Error())
}

func (d *Detector) logOnce(what string, where slog.Attr, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	reason := what + err.Error()
	if d.logged[reason] {
		return
	}
	if len(d.logged) > 1000 {
		clear(d.logged)
	}
	d.logged[reason] = true
	d.Log.Warn(what, where, slog.Any("err", err))
}

// Handle deals with one verification message. When it returns nil the message's consequences are durable and its offset may be committed; an error
// means: try the same message again.
func (d *Detector) Handle(ctx context.Context, where string, env *tricklepb.Envelope) error {
	return d.handle(ctx, env, receipt{where: where})
}

func (d *Detector) handle(ctx context.Context, env *tricklepb.Envelope, r receipt) error {
	where := r.where
	if b := env.GetBaseline(); b != nil {
		return d.baseline(ctx, where, env)
	}
	if p := env.GetPaused(); p != nil {
		return d.unscanned(ctx, where, env)
	}
	if thumbprint(env) == nil {
		return d.Refuse(ctx, where, errors.New("it is no verification message"))
	}
	name, ok := d.Replica.Name(env.GetTable())
	if !ok {
		return nil
	}
	if err := d.Ledger.Table(ctx, env.GetTable(), name); err != nil {
		return err
	}
	if err := d.source.Believe(ctx, env); err != nil {
		var foreign *ForeignError
		if !errors.As(err, &foreign) {
			return err
		}
		return errors.Join(d.Refuse(ctx, where, err), d.Ledger.Pause(ctx, env.GetTable(), err.Error()))
	}
	table, err := d.source.Table(ctx, env.GetTable(), env.GetSchema())
	if err != nil {
		return d.pauseOrRetry(ctx, env.GetTable(), err)
	}
	err = d.compare(ctx, table, env, &r)
	if d.Replica.Stale(err) {
		d.source.Forget(env.GetTable())
		return fmt.Errorf("table %s changed while it was compared: %w", env.GetTable(), err)
	}
	return err
}

// thumbprint is that of a verification message; nil where it is none.
func thumbprint(env *tricklepb.Envelope) *tricklepb.Thumbprint {
	if rows := env.GetRows(); rows != nil {
		return rows.GetThumbprint()
	}
	return env.GetThumbprint()
}

// ofTable tells an error that concerns one table from one that would meet any.
func (d *Detector) ofTable(err error) bool {
	var refusal Refusal
	var foreign *ForeignError
	var changed *SchemaError
	return errors.As(err, &refusal) || errors.As(err, &foreign) || errors.As(err, &changed) || d.Replica.Stale(err) || !d.Replica.Unreachable(err)
}

// pauseOrRetry records why a table can't be compared, or hands back what may pass.
func (d *Detector) pauseOrRetry(ctx context.Context, table string, err error) error {
	var changed *SchemaError
	if errors.As(err, &changed) {
		return nil // a message from before or after a change that the publisher is still catching up with
	}
	if d.Replica.Incomparable(err) {
		d.logOnce("a table is paused", slog.String("table", table), err)
		return d.Ledger.Pause(ctx, table, err.Error())
	}
	return err
}
