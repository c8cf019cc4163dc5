package app

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/trickle-verify/trickle/detector"
	"github.com/trickle-verify/trickle/entry"
	"github.com/trickle-verify/trickle/gate"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/policy"
	"github.com/trickle-verify/trickle/postgres"
	"github.com/trickle-verify/trickle/telemetry"
	"github.com/trickle-verify/trickle/tracing"
)

// Proof is what a full pass over the replica's tables, against the source, came to.
type Proof struct {
	Proven    bool    `json:"proven"`
	Why       string  `json:"why"` // it is not proven; empty where it is
	Tables    int     `json:"tables"`
	Ranges    int     `json:"ranges"`
	Done      int     `json:"ranges_done"`
	Agreed    int     `json:"ranges_agreed"` // when they were first looked at
	Rows      int64   `json:"rows"`          // looked at
	Corrected int64   `json:"rows_corrected"`
	Remaining int64   `json:"rows_remaining"` // that differ still: the replica would not take them, or they were not settled in time
	Seconds   float64 `json:"seconds"`
}

const (
	answersWithin = time.Minute     // how long a publisher is waited for
	gateWithin    = 2 * time.Minute // how long a closed gate is
	lookAtPass    = 500 * time.Millisecond
)

// unproven is why nothing was proven, where that is no fault of this process.
type unproven struct{ why string }

func (e *unproven) Error() string { return e.why }

// prover has this process's own detector make a full pass, without following the verification that the publisher sends.
type prover struct {
	*consumer
	tables []string // as the source calls them
	// since is when, by the replica's clock, the replica became what is to be proven: what was looked at before proves nothing.
	since    time.Time
	progress func(Proof)

	answers, opens time.Duration // bounds; 0 for the usual ones
}

// provingPolicy is the policy while it is being proven: rows come by the side channel, as a connector's snapshot would go past who plays forward here; and where this
// process does that, its own progress stands for the sink's.
func provingPolicy(p *policy.Policy, playing string) *policy.Policy {
	out := *p
	out.Resync.Via = policy.ViaSideChannel
	if playing != "" && out.Gate.Slot != "" {
		out.Gate.Group = playing
	}
	return &out
}

// silent is an inbox into which nothing comes.
type silent struct{}

func (silent) Fetch(ctx context.Context) ([]detector.Delivery, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func (silent) Commit(context.Context) error { return nil }

// run makes the pass. Its error is one of this process; that nothing could be proven is told in the proof.
func (p *prover) run(ctx context.Context) (Proof, error) {
	began := time.Now()
	inner, cancel := context.WithCancel(ctx)
	defer cancel()
	parts, inner := errgroup.WithContext(inner)
	parts.Go(func() error { return p.client.Run(inner) })
	parts.Go(func() error { return p.detector.Run(inner, silent{}) })
	parts.Go(func() error { return p.resync.Run(inner) })
	parts.Go(func() error {
		return p.gate.Run(inner, gate.Inputs{Publisher: p.detector.Source(), Groups: p.follows()})
	})
	var proof Proof
	over := false
	parts.Go(func() (err error) {
		defer cancel()
		proof, err = p.pass(inner)
		over = err == nil
		return err
	})
	err := parts.Wait()
	proof.Seconds = time.Since(began).Seconds()
	var not *unproven
	switch {
	case over:
		return proof, nil // how the others ended is of no matter
	case errors.As(err, &not):
		proof.Proven, proof.Why = false, not.why
		return proof, nil
	case ctx.Err() != nil:
		return proof, context.Cause(ctx)
	}
	return proof, err
}

// pass asks for a full resync of each table and waits for them to end.
func (p *prover) pass(ctx context.Context) (Proof, error) {
	if err := p.hear(ctx); err != nil {
		return Proof{}, err
	}
	ids := make([]string, len(p.tables))
	for i, table := range p.tables {
		var err error
		if ids[i], err = p.ask(ctx, table); err != nil {
			return Proof{}, err
		}
	}
	tick := time.NewTicker(lookAtPass)
	defer tick.Stop()
	var proof Proof
	moved := time.Now()
	for {
		passes, err := p.ledger.Passes(ctx, ids)
		if err != nil {
			return proof, err
		}
		next, over := sum(passes)
		if next != proof {
			moved = time.Now()
		}
		proof = next
		if p.progress != nil {
			p.progress(proof)
		}
		if over {
			return proof, nil
		}
		if err := p.held(ctx, time.Since(moved)); err != nil {
			return proof, err
		}
		select {
		case <-ctx.Done():
			return proof, ctx.Err()
		case <-tick.C:
		}
	}
}

// hear waits for the publisher's first word.
func (p *prover) hear(ctx context.Context) error {
	within := p.answers
	if within == 0 {
		within = answersWithin
	}
	bounded, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	select {
	case <-p.client.Ready():
	case <-bounded.Done():
	}
	if len(p.tables) == 0 {
		return &unproven{"there is no table to prove"}
	}
	_, err := p.detector.Source().Table(bounded, p.tables[0], 0)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case bounded.Err() != nil:
		return &unproven{fmt.Sprintf("no publisher of pipeline %s has answered within %s: start one (trickle run)", p.policy.Load().Pipeline, within)}
	default:
		return &unproven{fmt.Sprintf("table %s can't be compared with the source's: %v", p.tables[0], err)}
	}
}

// ask has a table resynced in full, or finds that under way already, as after a crash. One that was begun before the replica became what it is gives way.
func (p *prover) ask(ctx context.Context, table string) (string, error) {
	for {
		id := newID()
		made, err := p.ledger.Request(ctx, entry.Wish{ID: id, Scope: entry.Full, Table: table, Reason: "a restored replica proves itself", Since: p.since})
		if err != nil {
			return "", err
		}
		if made {
			return id, nil
		}
		running, err := p.ledger.Running(ctx)
		if err != nil {
			return "", err
		}
		for _, r := range running {
			if r.Table == table && r.Scope == entry.Full && !r.Snapshot {
				return r.ID, nil
			}
		}
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-time.After(lookAtPass): // it ended between the two looks
		}
	}
}

// held gives up where nothing gets on and something holds it that does not pass by itself.
func (p *prover) held(ctx context.Context, still time.Duration) error {
	why, err := p.ledger.Braked(ctx)
	if err != nil {
		return err
	}
	if why != "" {
		return &unproven{"the brake is on: " + why + "; look into it, then trickle-consumer brake --release"}
	}
	s := p.gate.Check(ctx)
	within := p.opens
	if within == 0 {
		within = gateWithin
	}
	if s.Open || s.Configured && still < within {
		return nil
	}
	return &unproven{"the gate is closed: " + s.Reason}
}

// sum is what passes come to together.
func sum(passes []entry.Pass) (proof Proof, over bool) {
	proof.Tables, proof.Proven, over = len(passes), true, true
	var failed []string
	for _, t := range passes {
		proof.Ranges += t.Ranges
		proof.Agreed += t.Agreed
		proof.Rows += t.Rows
		proof.Corrected += t.Corrected
		proof.Remaining += t.Refused + t.Suspects
		proof.Done += t.Done
		over = over && t.Over()
		if !t.Over() {
			proof.Proven = false
		} else if !t.Proven() {
			proof.Proven = false
			failed = append(failed, t.Table+": "+t.Failure)
		}
	}
	if over {
		proof.Why = strings.Join(failed, "; ")
	}
	return proof, over
}

// proven has the replica prove itself, and ends the restore.
func (r *restoration) proven(ctx context.Context, id string, p *player) (err error) {
	if p == nil {
		if p, err = r.player(ctx); err != nil {
			return err
		}
		defer p.close()
		if err := r.catchUp(ctx, p); err != nil {
			return err
		}
	}
	since, err := r.became(ctx, id)
	if err != nil {
		return err
	}
	return p.during(ctx, func(ctx context.Context) error {
		if err := r.prove(ctx, since); err != nil {
			return err
		}
		if id == "" {
			return nil
		}
		return r.ledger.AdvanceRestore(ctx, id, entry.RestoreDone)
	})
}

// became is when, by the replica's clock, it began to become what is to be proven: when its restore began, or where nothing was loaded, now. It also notes what
// could not be made, maybe by a run that was killed since.
func (r *restoration) became(ctx context.Context, id string) (at time.Time, err error) {
	var notMade []NotMade
	err = r.pool.QueryRow(ctx, `SELECT coalesce((SELECT started_at FROM trickle.restores WHERE id = $1), clock_timestamp()), coalesce((SELECT not_made FROM trickle.restores WHERE id = $1), '[]')`, id).Scan(&at, &notMade)
	if err != nil {
		return at, fmt.Errorf("asking the replica when its restore began: %w", postgres.OneLine(err))
	}
	if len(notMade) > 0 || len(r.report.Failed) > 0 {
		r.report.Failed = notMade
	}
	return at, nil
}

// prove makes the pass.
func (r *restoration) prove(ctx context.Context, since time.Time) error {
	if r.options.NoProof {
		r.note("the replica was not held against the source: trickle-consumer resync --table T does that, while trickle-consumer run is running")
		return nil
	}
	needs := ConsumerNeeds(r.policy, r.consumer)
	if err := errors.Join(r.kafka.Ensure(ctx, needs.Topics...), r.kafka.Require(ctx, needs.Rights...)); err != nil {
		return err
	}
	own := ""
	if r.options.PlayForward {
		own = message.Topics{Pipeline: r.policy.Pipeline}.PlayGroup(r.consumer)
	}
	var st stack
	defer st.close()
	tell, err := r.telemetry(ctx, &st, telemetry.Options{Service: consuming, Pipeline: r.policy.Pipeline, Consumer: r.consumer})
	if err != nil {
		return err
	}
	c, err := newConsumer(ctx, r.Settings, provingPolicy(r.policy, own), replicaWiring{r.pool, r.identity, r.kafka, tracing.New(tell.Tracer()), tell.Meter()})
	if err != nil {
		return err
	}
	r.Log.Info("the replica proves itself: a full pass against the source", "tables", len(r.tables))
	pass := &prover{consumer: c, tables: r.tables, since: since, answers: r.options.answers, opens: r.options.opens, progress: func(p Proof) { r.tell(RestoreProgress{Phase: PhaseProve, Proof: p}) }}
	proof, err := pass.run(ctx)
	if err != nil {
		return err
	}
	r.report.Proof = &proof
	if !proof.Proven {
		r.note("the replica is not proven: %s; to have it done later, run trickle-consumer run, and trickle-consumer resync --table T for each table", proof.Why)
	}
	return nil
}
