package export_test

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/trickle-verify/trickle/baseline"
	"github.com/trickle-verify/trickle/export"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
	"github.com/trickle-verify/trickle/postgres"
	"github.com/trickle-verify/trickle/transport"
)

// Rows that are older than the last set and yet not those that it holds are read: another schema, or another database, was renamed into the place of one.
func TestWhatComesInAnothersPlaceIsRead(t *testing.T) {
	t.Parallel()
	const table = `CREATE SCHEMA shop; CREATE TABLE shop.t (id int PRIMARY KEY, v text); INSERT INTO shop.t SELECT i, 'old' FROM generate_series(1, 50) AS i;
		CREATE SCHEMA next; CREATE TABLE next.t (LIKE shop.t INCLUDING ALL); INSERT INTO next.t SELECT id, 'new' FROM shop.t`
	t.Run("a schema", func(t *testing.T) {
		t.Parallel()
		r := newRig(t, pgtest.Database(t), []string{"shop.t"}, table)
		r.built()
		if p := r.built().Progress; p.Reused != 1 {
			t.Errorf("%+v", p)
		}
		r.exec(`ALTER SCHEMA shop RENAME TO before; ALTER SCHEMA next RENAME TO shop`)
		if b := r.built(); !strings.Contains(r.read(b.Manifest, 0, 0), "new") {
			t.Errorf("the set holds the rows of another table: %+v", b.Progress)
		}
	})
	t.Run("a database", func(t *testing.T) {
		t.Parallel()
		dsn := pgtest.Database(t)
		r := newRig(t, dsn, []string{"shop.t"}, table)
		name := strings.TrimPrefix(database(t, dsn).Path, "/")
		r.pool.Close()
		pgtest.Exec(t, elsewhere(t, dsn, "postgres"), "CREATE DATABASE "+name+"_copy TEMPLATE "+name)
		r2 := newRig(t, dsn, []string{"shop.t"}, `UPDATE shop.t SET v = 'newest'`)
		r2.built()
		r2.pool.Close()
		pgtest.Exec(t, elsewhere(t, dsn, "postgres"), "ALTER DATABASE "+name+" RENAME TO "+name+"_was", "ALTER DATABASE "+name+"_copy RENAME TO "+name)
		r3 := newRig(t, dsn, []string{"shop.t"})
		r3.bucket, r3.store, r3.parts.Store = r2.bucket, r2.store, r2.store
		if b := r3.built(); !strings.Contains(r3.read(b.Manifest, 0, 0), "old") {
			t.Errorf("the set holds the rows of another database: %+v", b.Progress)
		}
	})
}

func database(t *testing.T, dsn string) *url.URL {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil || u.Path == "" {
		t.Fatalf("%q, %v", dsn, err)
	}
	return u
}

func elsewhere(t *testing.T, dsn, name string) string {
	t.Helper()
	u := database(t, dsn)
	u.Path = "/" + name
	return u.String()
}

// A value of an enum that gets another name writes no row, and an object holds the name.
func TestRenamedValuesAreRead(t *testing.T) {
	t.Parallel()
	r := newRig(t, pgtest.Database(t), []string{"public.moods"}, moods)
	r.built()
	r.exec(`ALTER TYPE mood RENAME VALUE 'sad' TO 'sorry'`)
	if b := r.built(); strings.Contains(r.read(b.Manifest, 0, 0), "\tsad\t") {
		t.Errorf("the set holds a value that its type has not: %+v", b.Progress)
	}
}

// A source whose transactions are counted from further back than the last set saw is another past of itself: a disk that was put back.
func TestSourceThatWentBackIsRead(t *testing.T) {
	t.Parallel()
	r := newRig(t, pgtest.Database(t), []string{"public.moods"}, moods)
	m := r.built().Manifest
	ahead := *m
	ahead.Set = baseline.NewSet(time.Now().Add(time.Second))
	ahead.Tables[0].Objects[0].Xmin += 1 << 20
	if err := r.store.Complete(t.Context(), &ahead); err != nil {
		t.Fatal(err)
	}
	r.exec(`UPDATE moods SET secret = 'another'`)
	r.o.Tables[0].Rules = postgres.Rules{}
	b, err := export.Build(t.Context(), r.parts, r.o)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(r.read(b.Manifest, 0, 0), "another") {
		t.Errorf("the set holds what the source had once: %+v", b.Progress)
	}
}

// Topics that are all missing are no log to play forward from.
func TestNoTopicIsThere(t *testing.T) {
	t.Parallel()
	r := newRig(t, pgtest.Database(t), []string{"public.moods"}, moods)
	r.parts.Logs = func(context.Context) ([]transport.Log, error) {
		return []transport.Log{{Topic: "shpo.public.moods"}}, nil
	}
	if _, err := export.Build(t.Context(), r.parts, r.o); err == nil || !strings.Contains(err.Error(), "topic_prefix") {
		t.Errorf("%v", err)
	}
	if _, err := r.store.Latest(t.Context()); !errors.Is(err, baseline.ErrNoSet) {
		t.Errorf("%v", err)
	}
}

// A document that is nested deeper than is hashed here, behind the rows on which digests are tried, is digested by the server.
func TestDeepDocuments(t *testing.T) {
	t.Parallel()
	r := newRig(t, pgtest.Database(t), []string{"public.docs"}, `CREATE TABLE docs (id int PRIMARY KEY, d jsonb);
		INSERT INTO docs SELECT i, CASE WHEN i = 999 THEN (repeat('[', 1500) || repeat(']', 1500))::jsonb ELSE '{}' END FROM generate_series(1, 1000) AS i`)
	m := r.built().Manifest
	if rows := r.number(`SELECT count(*) FROM docs`); m.Tables[0].Rows != uint64(rows) {
		t.Errorf("%d rows of %d", m.Tables[0].Rows, rows)
	}
}

// going is a store in which, between what a build recalls and its first checkpoint, another build completes a set and removes the one before.
type going struct {
	*baseline.Store
	before func()
}

func (g *going) Checkpoint(ctx context.Context, m *baseline.Manifest) error {
	if fn := g.before; fn != nil {
		g.before = nil
		fn()
	}
	return g.Store.Checkpoint(ctx, m)
}

// Objects of a set that was removed before the build's checkpoint could say that it may use them are not named again.
func TestSetThatGoesBeforeItIsUsed(t *testing.T) {
	t.Parallel()
	r := newRig(t, pgtest.Database(t), []string{"public.moods"}, moods)
	first := r.built().Manifest
	r.parts.Store = &going{r.store, func() {
		if err := r.bucket.Delete(t.Context(), "shop/sets/"+first.Set+".json"); err != nil { // its objects go next
			t.Error(err)
		}
	}}
	if p := r.built().Progress; p.Reused != 0 || p.New != 1 {
		t.Errorf("%+v", p)
	}
}
