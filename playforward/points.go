package playforward

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/trickle-verify/trickle/debezium"
	"github.com/trickle-verify/trickle/transport"
)

// absent is the number under which a topic is kept that had no partition yet.
const absent = -1

// Begin sets the read point of a pipeline in the transaction that makes the replica what it was at the position.
func Begin(ctx context.Context, tx pgx.Tx, pipeline string, at transport.Position) error {
	var topics, ids []string
	var partitions []int32
	var offsets []int64
	for _, t := range at {
		put := func(n int32, offset int64) {
			topics, ids, partitions, offsets = append(topics, t.Topic), append(ids, t.ID), append(partitions, n), append(offsets, offset)
		}
		if len(t.Offsets) == 0 {
			put(absent, 0)
		}
		for n, offset := range t.Offsets {
			put(int32(n), offset)
		}
	}
	for _, sql := range []string{`DELETE FROM trickle.read_points WHERE pipeline = $1`, `DELETE FROM trickle.played_tables WHERE pipeline = $1`} {
		if _, err := tx.Exec(ctx, sql, pipeline); err != nil {
			return fmt.Errorf("setting the read point: %w", err)
		}
	}
	_, err := tx.Exec(ctx, `INSERT INTO trickle.read_points (pipeline, topic, topic_id, partition, next) SELECT $1, t, i, p, n FROM ROWS FROM (pg_catalog.unnest($2::text[]), pg_catalog.unnest($3::text[]), pg_catalog.unnest($4::int[]), pg_catalog.unnest($5::bigint[])) AS u(t, i, p, n)`,
		pipeline, topics, ids, partitions, offsets)
	if err != nil {
		return fmt.Errorf("setting the read point: %w", err)
	}
	return nil
}

// load reads what was saved.
func (a *Applier) load(ctx context.Context) error {
	clear(a.lanes)
	clear(a.topics)
	clear(a.state)
	a.order = nil
	rows, err := a.conn.Query(ctx, `SELECT topic, topic_id, partition, next, commit_lsn::text, lsn::text, source_at FROM trickle.read_points WHERE pipeline = $1 ORDER BY topic, partition`, a.options.Pipeline)
	if err != nil {
		return fmt.Errorf("reading the read point: %w", err)
	}
	var topic, id string
	var partition int32
	var next int64
	var commit, lsn *string
	var at *time.Time
	_, err = pgx.ForEachRow(rows, []any{&topic, &id, &partition, &next, &commit, &lsn, &at}, func() error {
		a.topics[topic] = id
		if partition == absent {
			return nil
		}
		l := a.lane(transport.Partition{Topic: topic, ID: partition})
		l.read = next
		l.mark = markOf(commit, lsn, at)
		l.saved, l.stored, l.known = l.mark, next, true
		return nil
	})
	if err != nil {
		return fmt.Errorf("reading the read point: %w", err)
	}
	rows, err = a.conn.Query(ctx, `SELECT table_name, commit_lsn::text, lsn::text, source_at, truncated_commit_lsn::text, truncated_lsn::text, truncated_at FROM trickle.played_tables WHERE pipeline = $1`, a.options.Pipeline)
	if err != nil {
		return fmt.Errorf("reading the read point: %w", err)
	}
	var name string
	var tCommit, tLSN *string
	var tAt *time.Time
	_, err = pgx.ForEachRow(rows, []any{&name, &commit, &lsn, &at, &tCommit, &tLSN, &tAt}, func() error {
		a.state[name] = &tableState{newest: markOf(commit, lsn, at), truncated: markOf(tCommit, tLSN, tAt)}
		return nil
	})
	if err != nil {
		return fmt.Errorf("reading the read point: %w", err)
	}
	return nil
}

func (a *Applier) lane(at transport.Partition) *lane {
	if l, ok := a.lanes[at]; ok {
		return l
	}
	l := &lane{at: at}
	a.lanes[at] = l
	a.order = append(a.order, l)
	slices.SortFunc(a.order, func(x, y *lane) int {
		return cmp.Or(strings.Compare(x.at.Topic, y.at.Topic), cmp.Compare(x.at.ID, y.at.ID))
	})
	return l
}

// save writes the read point behind the first events of a batch.
func (a *Applier) save(ctx context.Context, tx pgx.Tx, b *batch, applied int) error {
	var topics, ids []string
	var partitions []int32
	var offsets []int64
	var commits, lsns []*string
	var times []*time.Time
	next, marks := b.behind(applied)
	for _, l := range a.order {
		m, offset := l.saved, l.next()
		if n, ok := next[l]; ok {
			offset = n
		}
		if n, ok := marks[l]; ok {
			m = n
		}
		if offset == l.stored && m == l.saved && l.known {
			continue
		}
		c, p, at := m.columns()
		topics, ids, partitions, offsets = append(topics, l.at.Topic), append(ids, a.topics[l.at.Topic]), append(partitions, l.at.ID), append(offsets, offset)
		commits, lsns, times = append(commits, c), append(lsns, p), append(times, at)
	}
	if len(topics) > 0 {
		_, err := tx.Exec(ctx, `INSERT INTO trickle.read_points (pipeline, topic, topic_id, partition, next, commit_lsn, lsn, source_at)
			SELECT $1, t, i, p, n, c::pg_lsn, l::pg_lsn, s FROM ROWS FROM (pg_catalog.unnest($2::text[]), pg_catalog.unnest($3::text[]), pg_catalog.unnest($4::int[]),
				pg_catalog.unnest($5::bigint[]), pg_catalog.unnest($6::text[]), pg_catalog.unnest($7::text[]), pg_catalog.unnest($8::timestamptz[])) AS u(t, i, p, n, c, l, s)
			ON CONFLICT (pipeline, topic, partition) DO UPDATE SET topic_id = excluded.topic_id, next = excluded.next, commit_lsn = excluded.commit_lsn, lsn = excluded.lsn,
				source_at = excluded.source_at, at = clock_timestamp()`, a.options.Pipeline, topics, ids, partitions, offsets, commits, lsns, times)
		if err == nil {
			_, err = tx.Exec(ctx, `DELETE FROM trickle.read_points WHERE pipeline = $1 AND partition = $2 AND topic = ANY ($3)`, a.options.Pipeline, absent, topics)
		}
		if err != nil {
			return fmt.Errorf("saving the read point: %w", err)
		}
	}
	return a.saveTables(ctx, tx, b)
}

func (a *Applier) saveTables(ctx context.Context, tx pgx.Tx, b *batch) error {
	for name, s := range b.state {
		c, p, at := s.newest.columns()
		tc, tp, tAt := s.truncated.columns()
		_, err := tx.Exec(ctx, `INSERT INTO trickle.played_tables (pipeline, table_name, commit_lsn, lsn, source_at, truncated_commit_lsn, truncated_lsn, truncated_at, events, incomplete)
			VALUES ($1, $2, $3::text::pg_lsn, $4::text::pg_lsn, $5, $6::text::pg_lsn, $7::text::pg_lsn, $8, $9, $10)
			ON CONFLICT (pipeline, table_name) DO UPDATE SET commit_lsn = excluded.commit_lsn, lsn = excluded.lsn, source_at = excluded.source_at, truncated_commit_lsn = excluded.truncated_commit_lsn,
				truncated_lsn = excluded.truncated_lsn, truncated_at = excluded.truncated_at, events = played_tables.events + excluded.events, incomplete = played_tables.incomplete + excluded.incomplete`,
			a.options.Pipeline, name, c, p, at, tc, tp, tAt, s.events, s.incomplete)
		if err != nil {
			return fmt.Errorf("saving the read point: %w", err)
		}
	}
	return nil
}

// mark is how far a partition, or a table, was applied. The zero value is: nothing yet.
type mark struct {
	at   debezium.Place
	time time.Time // the latest commit seen, the source's clock
}

func (m mark) none() bool { return m == mark{} }

// after tells that an event lies behind the mark, or may: its place is not before, or it was committed later, as after a failover, which may count places anew.
func (m mark) after(at debezium.Place, committed time.Time) bool {
	return m.none() || at.Compare(m.at) >= 0 || committed.After(m.time)
}

// with is the mark once an event was applied.
func (m mark) with(at debezium.Place, committed time.Time) mark {
	if committed.Before(m.time) {
		committed = m.time
	}
	return mark{at, committed}
}

func (m mark) columns() (commit, lsn *string, at *time.Time) {
	if m.none() {
		return nil, nil, nil
	}
	text := func(n uint64) *string {
		s := fmt.Sprintf("%X/%X", n>>32, n&0xffffffff)
		return &s
	}
	if !m.time.IsZero() {
		at = &m.time
	}
	return text(m.at.Commit), text(m.at.LSN), at
}

func markOf(commit, lsn *string, at *time.Time) mark {
	var m mark
	if commit != nil && lsn != nil {
		m.at = debezium.Place{Commit: parseLSN(*commit), LSN: parseLSN(*lsn)}
	}
	if at != nil {
		m.time = at.UTC()
	}
	return m
}

// parseLSN reads what the server writes.
func parseLSN(s string) uint64 {
	hi, lo, _ := strings.Cut(s, "/")
	h, _ := strconv.ParseUint(hi, 16, 32)
	l, _ := strconv.ParseUint(lo, 16, 32)
	return h<<32 | l
}
