package stack_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/trickle-verify/trickle/internal/testbed/connect"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
	"github.com/trickle-verify/trickle/internal/testbed/stack"
)

// In which topologies a heartbeat in the replica means that all that was committed before it has been applied: docs/how-it-works.md leans on this. With a
// topic for each table it does not. With one topic for all it does only if the sink writes record by record, since otherwise it collects a batch by table and
// writes deletes last.
func whetherTheHeartbeatOvertakes(t *testing.T, s *stack.Stack) {
	one := func(prefix string) map[string]string {
		return map[string]string{
			"transforms": "one", "transforms.one.type": "org.apache.kafka.connect.transforms.RegexRouter", "transforms.one.regex": prefix + `\.(public|trickle)\..*`,
			"transforms.one.replacement": prefix + allRows, "tombstones.on.delete": "false",
		}
	}
	t.Run("a topic for each table", func(t *testing.T) {
		t.Parallel()
		c := newCrossing(t, s, "many", nil, nil)
		for began := time.Now(); !c.overtakes(); {
			if time.Since(began) > patience {
				t.Fatal("the heartbeat never overtook a row that was deleted before it")
			}
		}
	})
	t.Run("one topic", func(t *testing.T) {
		t.Parallel()
		c := newCrossing(t, s, "one", one("one"), map[string]string{"topics.regex": "one" + allRows})
		for began := time.Now(); !c.overtakes(); {
			if time.Since(began) > patience {
				t.Fatal("the heartbeat never overtook a row that was deleted before it")
			}
		}
	})
	t.Run("one topic, rows one by one", func(t *testing.T) {
		t.Parallel()
		c := newCrossing(t, s, "each", one("each"), map[string]string{"topics.regex": "each" + allRows, "batch.size": "1"})
		for range 3 {
			if c.overtakes() {
				t.Fatal("the heartbeat overtook a row that was deleted before it")
			}
		}
	})
}

const allRows = ".all.rows" // the one topic, behind its prefix

// crossing is a table and the heartbeat on their way to a replica.
type crossing struct {
	t               *testing.T
	source, replica string
	slot            string
	sink            stack.Sink
}

func newCrossing(t *testing.T, s *stack.Stack, name string, source, sink map[string]string) *crossing {
	c := &crossing{t: t, source: pgtest.Database(t), replica: pgtest.Database(t)}
	for _, dsn := range []string{c.source, c.replica} {
		pgtest.Exec(t, dsn, heartbeat, `CREATE TABLE letters (id int PRIMARY KEY, v text)`)
	}
	from := s.Source(name, c.source, []string{"public.letters"}, source)
	c.sink, c.slot = from.Sink(name+"-sink", c.replica, sink), from.Slot
	t.Cleanup(func() { stop(t, c.sink.Connector, from.Connector) })
	return c
}

const at, letters = `SELECT max(at) FROM trickle.heartbeat`, `SELECT count(*) FROM letters`

func (c *crossing) beat() {
	pgtest.Exec(c.t, c.source, `INSERT INTO trickle.heartbeat VALUES ('p', clock_timestamp()) ON CONFLICT (pipeline) DO UPDATE SET at = clock_timestamp()`)
}

// overtakes deletes a row and then beats, keeps the sink from the row, and tells whether the beat arrives nevertheless.
func (c *crossing) overtakes() (overtook bool) {
	pgtest.Exec(c.t, c.source, `INSERT INTO letters VALUES (1)`)
	c.beat()
	equal(c.t, c.source, c.replica, letters)
	equal(c.t, c.source, c.replica, at)
	c.do(c.t.Context(), c.sink.Stop) // not paused: what it had asked for before would bring the deletion alone, in a batch without the beat
	pgtest.Exec(c.t, c.source, `DELETE FROM letters`)
	before := pgtest.Text(c.t, c.source, `pg_current_wal_lsn()`)
	c.beat()
	c.read(before)
	blocker, err := pgx.Connect(c.t.Context(), c.replica)
	c.must(err)
	defer blocker.Close(context.Background())
	_, err = blocker.Exec(c.t.Context(), `BEGIN; LOCK TABLE letters IN SHARE MODE`)
	c.must(err)
	c.do(c.t.Context(), c.sink.Resume)
	c.until(c.replica, `EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation = 'letters'::regclass)`)
	// The sink writes in one session, which waits for us now: what is not there yet was not sent before the letter.
	overtook = pgtest.Text(c.t, c.source, at) == pgtest.Text(c.t, c.replica, at)
	_, err = blocker.Exec(c.t.Context(), `ROLLBACK`)
	c.must(err)
	equal(c.t, c.source, c.replica, letters)
	equal(c.t, c.source, c.replica, at)
	return overtook
}

// read waits until Debezium has confirmed a beat, so that it is in Kafka, and so is what was before it: the beat is the only event of this database behind the position. The end of the
// log can't be waited for, since other databases write to it as well, and Debezium confirms what is its own.
func (c *crossing) read(before string) {
	c.until(c.source, `EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = '`+c.slot+`' AND confirmed_flush_lsn > '`+before+`')`)
}

func (c *crossing) until(dsn, condition string) {
	for began := time.Now(); pgtest.Text(c.t, dsn, condition) != "true"; {
		if time.Since(began) > patience {
			c.t.Fatalf("did not come about: %s", condition)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (c *crossing) do(ctx context.Context, what func(context.Context) error) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := what(ctx); err != nil {
		c.t.Error(err)
	}
}

// stop takes connectors off their databases, which go after them.
func stop(t *testing.T, connectors ...connect.Connector) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for _, c := range connectors {
		if err := c.Stop(ctx); err != nil {
			t.Error(err)
		}
	}
}

func (c *crossing) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}
