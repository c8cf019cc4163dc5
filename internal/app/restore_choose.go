package app

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/trickle-verify/trickle/baseline"
	"github.com/trickle-verify/trickle/entry"
	"github.com/trickle-verify/trickle/postgres"
	"github.com/trickle-verify/trickle/transport"
)

// migrated tells whether the replica has a ledger in which restores are kept.
func (r *restoration) migrated(ctx context.Context) (bool, error) {
	there := false
	err := r.pool.QueryRow(ctx, `SELECT pg_catalog.to_regclass('trickle.restores') IS NOT NULL AND pg_catalog.to_regclass('trickle.read_points') IS NOT NULL`).Scan(&there)
	if err != nil {
		return false, fmt.Errorf("looking for the schema trickle in the replica: %w", postgres.OneLine(err))
	}
	return there, nil
}

func (r *restoration) openRestore(ctx context.Context) (*entry.Restore, error) {
	if there, err := r.migrated(ctx); err != nil || !there {
		return nil, err
	}
	return r.ledger.OpenRestore(ctx)
}

// pinned is the source that the replica is pinned to; empty: none yet.
func (r *restoration) pinned(ctx context.Context) (string, error) {
	if there, err := r.migrated(ctx); err != nil || !there {
		return "", err
	}
	return r.ledger.Pinned(ctx)
}

// seen looks at the logs that matter to a set: those of its positions, and those that hold the CDC's log by the policy.
func (r *restoration) seen(ctx context.Context, m *baseline.Manifest) (baseline.Seen, error) {
	var topics []string
	for _, p := range m.Positions {
		topics = append(topics, p.Position.Topics()...)
	}
	names := make([]postgres.Name, len(m.Tables))
	for i, t := range m.Tables {
		names[i] = postgres.ParseName(t.Table)
	}
	if by, err := cdcTopics(r.policy, names); err == nil {
		topics = append(topics, by...)
	}
	slices.Sort(topics)
	logs, err := r.kafka.Logs(ctx, slices.Compact(topics))
	return baseline.Seen{At: time.Now(), Logs: logs}, err
}

func (r *restoration) judge(ctx context.Context, m *baseline.Manifest) (baseline.Age, error) {
	now, err := r.seen(ctx, m)
	if err != nil {
		return baseline.Age{}, err
	}
	return m.Judge(now, baseline.Seen{}, 0), nil
}

// choose finds the set to load: the one that was named, or the newest that can be restored from.
func (r *restoration) choose(ctx context.Context) (*baseline.Manifest, error) {
	pinned, err := r.pinned(ctx)
	if err != nil {
		return nil, err
	}
	if r.options.Set != "" {
		m, err := r.store.Load(ctx, r.options.Set)
		if err != nil {
			return nil, err
		}
		return m, r.valid(ctx, m, pinned)
	}
	sets, err := r.store.Sets(ctx)
	if err != nil {
		return nil, err
	}
	var reasons []string
	for _, s := range sets {
		if s.Partial {
			continue
		}
		m, err := r.store.Load(ctx, s.Set)
		if err == nil {
			err = r.valid(ctx, m, pinned)
		}
		if err == nil {
			if len(reasons) > 0 {
				r.note("the newest set that can be restored from is %s; of newer ones: %s", s.Set, strings.Join(reasons, "; "))
			}
			return m, nil
		}
		if !ofSet(err) {
			return nil, err
		}
		reasons = append(reasons, err.Error())
	}
	if len(reasons) == 0 {
		_, err := r.store.Latest(ctx) // which says that there is none
		return nil, err
	}
	return nil, fmt.Errorf("nothing was restored: %s", strings.Join(reasons, "; "))
}

// ofSet tells errors that are about one set and none of the others.
func ofSet(err error) bool {
	var (
		corrupt *baseline.CorruptError
		foreign *baseline.ForeignError
		expired *baseline.ExpiredError
		forged  *baseline.ForgedError
	)
	return errors.As(err, &corrupt) || errors.As(err, &foreign) || errors.As(err, &expired) || errors.As(err, &forged)
}

// valid refuses a set that can't be restored from.
func (r *restoration) valid(ctx context.Context, m *baseline.Manifest, pinned string) error {
	if pinned != "" {
		if err := m.CheckSource(pinned); err != nil {
			return fmt.Errorf("%w: it is what this replica is pinned to; if the source was replaced on purpose, run trickle-consumer pin --source %s", err, m.Source)
		}
	}
	age, err := r.judge(ctx, m)
	if err != nil {
		return err
	}
	if age.Unknown != "" {
		r.Log.Warn("how long the set stays a restore point is not known", "set", m.Set, "reason", age.Unknown)
	}
	return age.Err()
}

// standing is from where on a replica needs the log.
type standing struct {
	at    transport.Position
	group string // that has committed it; empty: it is the replica's own read point
}

// standing finds out whether the replica only needs what the logs hold, and from where on. Nil: it has to be loaded, and the report says why.
//
// A read point of trickle's own was written in the transaction of the rows, so where both are there, it is true of them. What a consumer group has committed is
// elsewhere, and is true of a database that was since dropped and made again, or put back from a backup, no more: it counts only where the replica's own ledger is there, as it was lost with the rows otherwise. Neither counts
// where a table is missing, or empty that the newest set has rows of.
func (r *restoration) standing(ctx context.Context) (*standing, error) {
	not := func(why string, args ...any) (*standing, error) {
		r.report.Reason = fmt.Sprintf(why, args...)
		return nil, nil
	}
	there, err := r.migrated(ctx)
	if err != nil {
		return nil, err
	}
	if !there {
		return not("the replica holds no ledger of trickle, so nothing in it says how far it has got")
	}
	if why, err := r.lost(ctx); err != nil || why != "" {
		return not("%s", why)
	}
	point, reason, err := r.ownPoint(ctx)
	if err != nil {
		return nil, err
	}
	if point != nil {
		return &standing{at: point}, nil
	}
	group := r.options.ResetGroup
	if group == "" {
		group = r.policy.Gate.Group
	}
	if group == "" {
		return not("%s, and no consumer group is named that would tell", reason)
	}
	at, why, err := r.groupPoint(ctx, group)
	if err != nil {
		return nil, err
	}
	if at == nil {
		return not("%s; consumer group %s: %s", reason, group, why)
	}
	r.report.Reason = fmt.Sprintf("nothing was loaded: the log still holds all that came after what consumer group %s has committed", group)
	return &standing{at, group}, nil
}

// lost is why the pipeline's tables can't be what they were; empty: they may.
func (r *restoration) lost(ctx context.Context) (string, error) {
	rows := map[string]uint64{} // of the newest set, by the source's names
	if r.store != nil {
		switch m, err := r.store.Latest(ctx); {
		case err == nil:
			for _, t := range m.Tables {
				rows[t.Table] = t.Rows
			}
		case ctx.Err() != nil:
			return "", err
		case !errors.Is(err, baseline.ErrNoSet):
			r.Log.Warn("the newest set can't be read, so only the replica's ledger says which tables there have to be", "err", err)
		}
	}
	known, err := r.ledger.TableNames(ctx)
	if err != nil {
		return "", err
	}
	for _, t := range known {
		if _, ok := rows[t]; !ok {
			rows[t] = 0
		}
	}
	r.tables = r.tables[:0]
	for table := range rows {
		if _, ok := r.mapping(table); ok {
			r.tables = append(r.tables, table)
		}
	}
	slices.Sort(r.tables)
	if len(r.tables) == 0 {
		return "neither the newest set nor the replica's ledger names a table", nil
	}
	for _, table := range r.tables {
		m, _ := r.mapping(table)
		var there bool
		if err := r.pool.QueryRow(ctx, `SELECT pg_catalog.to_regclass($1) IS NOT NULL`, m.Name.SQL()).Scan(&there); err != nil {
			return "", fmt.Errorf("looking for %s in the replica: %w", m.Name, postgres.OneLine(err))
		}
		if !there {
			return fmt.Sprintf("table %s is missing in the replica", m.Name), nil
		}
		if rows[table] == 0 {
			continue
		}
		var some bool
		if err := r.pool.QueryRow(ctx, `SELECT EXISTS (SELECT FROM `+m.Name.SQL()+`)`).Scan(&some); err != nil {
			return "", fmt.Errorf("looking into %s of the replica: %w", m.Name, postgres.OneLine(err))
		}
		if !some {
			return fmt.Sprintf("table %s is empty in the replica and has %d rows in the newest set", m.Name, rows[table]), nil
		}
	}
	return "", nil
}

// ownPoint is how far trickle itself has played the log into this replica, where the logs still hold what came since.
func (r *restoration) ownPoint(ctx context.Context) (at transport.Position, why string, err error) {
	rows, err := r.pool.Query(ctx, `SELECT topic, topic_id, partition, next, at FROM trickle.read_points WHERE pipeline = $1 ORDER BY topic, partition`, r.policy.Pipeline)
	if err != nil {
		return nil, "", fmt.Errorf("reading the replica's read point: %w", postgres.OneLine(err))
	}
	var topic, id string
	var partition int32
	var next int64
	var saved, oldest time.Time
	_, err = pgx.ForEachRow(rows, []any{&topic, &id, &partition, &next, &saved}, func() error {
		if len(at) == 0 || at[len(at)-1].Topic != topic {
			at = append(at, transport.TopicPosition{Topic: topic, ID: id})
		}
		if partition >= 0 {
			at[len(at)-1].Offsets = append(at[len(at)-1].Offsets, next)
		}
		if oldest.IsZero() || saved.Before(oldest) {
			oldest = saved
		}
		return nil
	})
	if err != nil {
		return nil, "", fmt.Errorf("reading the replica's read point: %w", postgres.OneLine(err))
	}
	if len(at) == 0 {
		return nil, "trickle has not played the log into this replica", nil
	}
	if at, err = r.withLater(ctx, at); err != nil {
		return nil, "", err
	}
	logs, err := r.kafka.Logs(ctx, at.Topics())
	if err != nil {
		return nil, "", err
	}
	if err := errors.Join(at.Held(logs), deletions(at, logs, oldest)); err != nil {
		return nil, "its read point is too old: " + err.Error(), nil //nolint:nilerr // it is told as the reason
	}
	r.report.Reason = "nothing was loaded: the log still holds all that came after the replica's own read point"
	return at, "", nil
}

// deletions refuses to go on in a compacted topic from a position that was reached longer ago than deletions stay in it. The zero time: it is not known when.
func deletions(at transport.Position, logs []transport.Log, reached time.Time) error {
	for _, l := range logs {
		p, _ := at.Of(l.Topic)
		if !l.Retention.Compacted || !reached.IsZero() && time.Since(reached) < l.Retention.Tombstones {
			continue
		}
		for n, has := range l.Partitions {
			if n >= len(p.Offsets) || p.Offsets[n] < has.End {
				return fmt.Errorf("topic %s is compacted and keeps deletions for %s (delete.retention.ms), so what was deleted since may be missing", l.Topic, l.Retention.Tombstones)
			}
		}
	}
	return nil
}

// groupPoint is what a group has committed, where the logs still hold what came since.
func (r *restoration) groupPoint(ctx context.Context, group string) (at transport.Position, why string, err error) {
	patterns, err := cdcTopics(r.policy, r.sourceNames())
	if err != nil {
		return nil, err.Error(), nil //nolint:nilerr // it is told as the reason
	}
	logs, err := r.kafka.Logs(ctx, patterns)
	if err != nil {
		return nil, "", err
	}
	committed, err := r.kafka.Committed(ctx, group, patterns)
	if err != nil {
		return nil, "", err
	}
	for _, l := range logs {
		c, _ := committed.Of(l.Topic)
		p := transport.TopicPosition{Topic: l.Topic, ID: l.ID}
		for n, has := range l.Partitions {
			switch {
			case n < len(c.Offsets) && c.Offsets[n] >= 0:
				p.Offsets = append(p.Offsets, c.Offsets[n])
			case has.Start == has.End:
				p.Offsets = append(p.Offsets, has.End)
			case r.beats(l.Topic):
				p.Offsets = append(p.Offsets, has.Start) // a heartbeat or two more do no harm
			default:
				return nil, fmt.Sprintf("it has committed nothing in %s", transport.Partition{Topic: l.Topic, ID: int32(n)}), nil
			}
		}
		at = append(at, p)
	}
	if len(at) == 0 {
		return nil, "none of the CDC's topics exists", nil
	}
	if err := errors.Join(at.Held(logs), deletions(at, logs, time.Time{})); err != nil {
		return nil, err.Error(), nil //nolint:nilerr // it is told as the reason
	}
	return at, "", nil
}

// only brings what came since, into a replica that needs nothing else.
func (r *restoration) only(ctx context.Context, s *standing) error {
	r.note("%s", r.report.Reason)
	if s.group != "" {
		r.note("if this database was put back from a backup, what the group has committed is not true of it: load it then, with --set and --replace")
	}
	switch {
	case !r.options.PlayForward && s.group != "":
		r.note("your sink (consumer group %s) only has to be started: its offsets were left as they are; to hold the replica against the source then, run trickle-consumer resync --table T for each table", s.group)
		return nil
	case r.options.via() == "":
		r.note("give --play-forward to have this process bring what came since, or --reset-group GROUP to have your own sink begin at the read point")
		return nil
	}
	if err := r.alone(ctx); err != nil {
		return err
	}
	p, err := r.player(ctx)
	if err != nil {
		return err
	}
	defer p.close()
	// Where the point is the replica's own, what the sink's group has committed may be of another time: before a backup was put back, or of no time at all.
	if s.group != "" || p.applier == nil {
		if err := r.handOver(ctx, p, s.at); err != nil {
			return err
		}
	}
	if err := r.catchUp(ctx, p); err != nil {
		return err
	}
	return r.proven(ctx, "", p)
}
