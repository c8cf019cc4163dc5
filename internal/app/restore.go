package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/trickle-verify/trickle/baseline"
	"github.com/trickle-verify/trickle/debezium"
	"github.com/trickle-verify/trickle/entry"
	"github.com/trickle-verify/trickle/ledger"
	"github.com/trickle-verify/trickle/playforward"
	"github.com/trickle-verify/trickle/policy"
	"github.com/trickle-verify/trickle/postgres"
	"github.com/trickle-verify/trickle/restore"
	"github.com/trickle-verify/trickle/scanner"
	"github.com/trickle-verify/trickle/transport"
)

// RestoreOptions are what a restore is asked for.
type RestoreOptions struct {
	URL string // of the store; empty: the policy's
	Set string // empty: the newest that can be restored from
	// PlayForward has this process apply what CDC has written since; Follow has it go on with that.
	PlayForward, Follow bool
	// ResetGroup is the consumer group of the user's own sink, which is to apply it.
	ResetGroup string
	Replace    bool // rows that are there may go
	NoProof    bool
	Jobs       int
	// Connector are the settings of the connector that wrote the CDC's log, where it was told to write values in another way than it does by itself.
	Connector map[string]string
	// Progress is told how far it is; nil: nobody is.
	Progress func(RestoreProgress)

	answers, opens time.Duration // how long the publisher and the gate are waited for; 0: as long as usual
}

// check refuses what can't be meant.
func (o RestoreOptions) check() error {
	switch {
	case o.PlayForward && o.ResetGroup != "":
		return errors.New("--play-forward and --reset-group are two ways to bring what came since: give one of them")
	case o.Follow && !o.PlayForward:
		return errors.New("--follow goes on with playing the log forward: give --play-forward too")
	case o.Jobs < 0:
		return fmt.Errorf("--jobs %d: give how many ranges are copied in at a time", o.Jobs)
	}
	return nil
}

// via says in words how what came since is to be applied; empty: that was not asked for.
func (o RestoreOptions) via() string {
	switch {
	case o.PlayForward:
		return "--play-forward"
	case o.ResetGroup != "":
		return "--reset-group " + o.ResetGroup
	}
	return ""
}

// restoration is one run.
type restoration struct {
	Settings

	options  RestoreOptions
	events   debezium.Options
	policy   *policy.Policy
	consumer string
	pool     *pgxpool.Pool
	identity postgres.Identity
	kafka    *transport.Kafka
	ledger   *ledger.Ledger
	store    *baseline.Store // nil: there is none
	noStore  error           // why
	report   RestoreReport
	tables   []string // as the source calls them
}

// Restore brings a replica back: from where it has got if the log still holds what came since, else from a set of the base-line view.
func Restore(ctx context.Context, s Settings, o RestoreOptions) (RestoreReport, error) {
	var st stack
	defer st.close()
	began := time.Now()
	r, err := s.restoration(ctx, &st, o)
	if err != nil {
		return RestoreReport{}, err
	}
	err = r.run(ctx)
	r.report.Seconds = time.Since(began).Seconds()
	return r.report, err
}

func (s Settings) restoration(ctx context.Context, st *stack, o RestoreOptions) (r *restoration, err error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	r = &restoration{Settings: s, options: o}
	if r.events, err = debezium.OptionsOf(o.Connector); err != nil {
		return nil, err
	}
	if r.policy, err = s.LoadPolicy(); err != nil {
		return nil, err
	}
	r.report = RestoreReport{Pipeline: r.policy.Pipeline, Made: []string{}, Failed: []NotMade{}, LeftOut: []string{}, Notes: []string{}}
	if r.pool, r.identity, err = open(ctx, st, s.ReplicaDSN, postgres.Options{Role: "replica", Setting: "--replica or TRICKLE_REPLICA_DSN", MaxConns: int32(12 + o.Jobs)}); err != nil {
		return nil, err
	}
	if r.identity.Standby {
		return nil, fmt.Errorf("the replica %s is a standby, which can't be written: point --replica at a primary", r.identity)
	}
	if r.consumer, err = s.consumer(r.identity); err != nil {
		return nil, err
	}
	r.noStore = errNoStore
	if url := cmp.Or(o.URL, r.policy.Baseline.URL); url != "" {
		where := s.view(r.policy)
		where.URL = url
		// Where there is nothing to be had, it may be that nothing is needed: the log may reach back far enough.
		if r.store, err = s.openSets(ctx, st, where); errors.Is(err, fs.ErrNotExist) {
			r.noStore = err
		} else if err != nil {
			return nil, err
		}
	}
	if r.kafka, err = s.openBus(ctx, st); err != nil {
		return nil, err
	}
	r.ledger = ledger.New(r.pool, r.policy.Pipeline)
	return r, nil
}

// errNoStore says what to give.
var errNoStore = errors.New("the replica has to be loaded, and where the base-line view is kept is not known: set baseline.url in the policy, or give --url")

// run decides what there is to do, and does it.
func (r *restoration) run(ctx context.Context) error {
	open, err := r.openRestore(ctx)
	if err != nil {
		return err
	}
	if open != nil && !r.anew(*open) {
		return r.resume(ctx, *open)
	}
	if open == nil && r.options.Set == "" {
		from, err := r.standing(ctx)
		if err != nil {
			return err
		}
		if from != nil {
			return r.only(ctx, from)
		}
	} else {
		r.report.Reason = "a set was named"
	}
	if r.options.via() == "" {
		return fmt.Errorf("the replica has to be loaded (%s), and then brought up to date: give --play-forward to have this process apply Debezium's events, or --reset-group GROUP to have your own sink do so", r.report.Reason)
	}
	if r.store == nil {
		return fmt.Errorf("%w (%s)", r.noStore, r.report.Reason)
	}
	r.Log.Info("the replica has to be loaded", "reason", r.report.Reason)
	m, err := r.choose(ctx)
	if err != nil {
		return err
	}
	return r.from(ctx, m, entry.RestoreLoading)
}

// note keeps something for a person, and says it at once.
func (r *restoration) note(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	r.report.Notes = append(r.report.Notes, text)
	r.Log.Info(text)
}

// tell is for whoever watches.
func (r *restoration) tell(p RestoreProgress) {
	if r.options.Progress != nil {
		r.options.Progress(p)
	}
}

// mapping finds a table's counterpart.
func (r *restoration) mapping(table string) (restore.Mapping, bool) {
	n := postgres.ParseName(table)
	m, ok := r.policy.For(n.Schema, n.Table)
	return restore.Mapping{Name: postgres.Name{Schema: m.Replica.Schema, Table: m.Replica.Name}, Rules: scanner.Rules(m.Table)}, ok
}

func (r *restoration) restorer(source string) *restore.Restorer {
	return restore.New(restore.Parts{Pool: r.pool, Ledger: r.ledger, Store: r.store, Log: r.Log}, restore.Options{
		Pipeline: r.policy.Pipeline, Source: source, Map: r.mapping, Replace: r.options.Replace, Jobs: r.options.Jobs, Role: r.policy.Detect.SessionReplicationRole,
		Arguments: r.arguments(), NewID: newID, Key: r.policy.Privacy.Key,
		Progress: func(p restore.Progress) {
			phase := PhaseLoad
			if p.Ranges == 0 { // nothing but what waited for CDC
				phase = PhaseFinish
			}
			r.tell(RestoreProgress{Phase: phase, Load: p})
		},
	})
}

// arguments are kept with the restore, which goes on under the same ones only.
func (r *restoration) arguments() map[string]string {
	return map[string]string{"via": r.options.via()}
}

// anew tells whether a restore that is under way is to be given up for another set.
func (r *restoration) anew(open entry.Restore) bool {
	return r.options.Replace && r.options.Set != "" && r.options.Set != open.Set
}

// resume goes on with a restore that stopped.
func (r *restoration) resume(ctx context.Context, open entry.Restore) error {
	state := open.State
	if state == entry.RestoreFailed {
		state = open.Stopped
	}
	begun := fmt.Sprintf("a restore of set %s, begun at %s with %s, is under way (%s)", open.Set, open.Started.Format(time.RFC3339), cmp.Or(open.Arguments["via"], "no way to go on"), state)
	const other = "; or give it up and begin anew with --replace --set ANOTHER (trickle baseline build makes one)"
	switch {
	case r.options.Set != "" && r.options.Set != open.Set:
		return fmt.Errorf("%s: run the same again without --set %s to go on with it%s", begun, r.options.Set, other)
	case r.options.via() != open.Arguments["via"]:
		return fmt.Errorf("%s: run it again with that to go on with it, and not with %s%s", begun, cmp.Or(r.options.via(), "neither --play-forward nor --reset-group"), other)
	}
	for _, t := range open.Tables {
		r.tables = append(r.tables, t.Table)
	}
	r.report.Resumed, r.report.Reason = true, begun
	r.Log.Info("going on with a restore that stopped", "set", open.Set, "state", state, "ranges", open.Ranges, "done", open.Done)
	if r.store == nil && state == entry.RestoreProving {
		return r.proveOnly(ctx, open, r.noStore)
	}
	if r.store == nil {
		return r.noStore
	}
	m, err := r.store.Load(ctx, open.Set)
	if err != nil && state == entry.RestoreProving {
		return r.proveOnly(ctx, open, err)
	}
	if err != nil {
		return fmt.Errorf("%s: %w%s", begun, err, other)
	}
	if state == entry.RestoreLoading || state == entry.RestoreLoaded {
		if age, err := r.judge(ctx, m); err != nil {
			return err
		} else if err := age.Err(); err != nil {
			return fmt.Errorf("%s, and can't go on: %w%s", begun, err, other)
		}
	}
	return r.from(ctx, m, state)
}

// from goes through the phases, from the one that a restore is in.
func (r *restoration) from(ctx context.Context, m *baseline.Manifest, state string) error {
	pinned, err := r.pinned(ctx)
	if err != nil {
		return err
	}
	r.tables = r.tables[:0]
	for _, t := range m.Tables {
		if _, ok := r.mapping(t.Table); ok {
			r.tables = append(r.tables, t.Table)
		}
	}
	restorer := r.restorer(pinned)
	if state == entry.RestoreLoading {
		if err := r.ready(ctx, m, restorer); err != nil {
			return err
		}
	}
	loaded, err := restorer.Load(ctx, m) // which is over at once where that is behind it
	if err != nil {
		return err
	}
	r.loaded(m, loaded)
	if _, err := r.ledger.Pin(ctx, m.Source); err != nil {
		return err
	}
	id := loaded.Restore.ID
	err = r.after(ctx, m, restorer, loaded)
	var busy *playforward.BusyError
	if err != nil && ctx.Err() == nil && !errors.As(err, &busy) && !errors.Is(err, ledger.ErrRestoring) { // else it is another process's, which goes on with it
		err = errors.Join(err, r.ledger.FailRestore(ctx, id, err.Error()))
	}
	return err
}

// loaded notes what was loaded.
func (r *restoration) loaded(m *baseline.Manifest, l restore.Loaded) {
	from, _ := m.Start() // it was judged
	set := &RestoreSet{Set: m.Set, Taken: from.Taken, Tables: len(l.Restore.Tables), Ranges: l.Restore.Ranges, Rows: l.Restore.Rows, Bytes: l.Restore.Bytes, Seconds: l.Seconds}
	if r.report.Set != nil {
		set.Travelled = r.report.Set.Travelled
	}
	r.report.Set, r.report.Loaded = set, true
	r.failed(l.Failed)
	r.report.LeftOut = append(r.report.LeftOut, l.Plan.LeftOut...)
	r.Log.Info("the set is loaded", "set", m.Set, "tables", set.Tables, "rows", set.Rows, "took", time.Duration(l.Seconds*1000)*time.Millisecond)
}

// failed notes what could not be made.
func (r *restoration) failed(all []restore.Failure) {
	for _, f := range all {
		r.Log.Error("an index or a constraint can't be made", "table", f.Table, "name", f.Name, "sql", f.SQL, "err", f.Err)
		r.report.Failed = append(r.report.Failed, NotMade{Table: f.Table, Name: f.Name, SQL: f.SQL, Error: f.Err.Error()})
	}
}

// after is all that comes behind loading.
func (r *restoration) after(ctx context.Context, m *baseline.Manifest, restorer *restore.Restorer, loaded restore.Loaded) error {
	id, state := loaded.Restore.ID, loaded.Restore.State
	if state == entry.RestoreFailed {
		state = loaded.Restore.Stopped
	}
	p, err := r.player(ctx)
	if err != nil {
		return err
	}
	defer p.close()
	if state == entry.RestoreLoaded {
		from, err := r.start(ctx, m)
		if err != nil {
			return err
		}
		if err := r.handOver(ctx, p, from); err != nil {
			return err
		}
		if err := r.ledger.AdvanceRestore(ctx, id, entry.RestorePlaying); err != nil {
			return err
		}
	} else if err := r.ledger.AdvanceRestore(ctx, id, cmp.Or(state, entry.RestorePlaying)); err != nil { // it had failed
		return err
	}
	finished, err := r.finish(ctx, m, restorer, p)
	if err != nil {
		return err
	}
	r.failed(finished.Failed)
	r.report.Made = append(r.report.Made, finished.Made...)
	r.report.LeftOut = append(r.report.LeftOut, finished.LeftOut...)
	if err := r.ledger.AdvanceRestore(ctx, id, entry.RestoreProving); err != nil {
		return err
	}
	return r.proven(ctx, id, p)
}
