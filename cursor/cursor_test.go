package cursor_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/trickle-verify/trickle/cursor"
	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/transport"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type store interface {
	Load(ctx context.Context) (cursor.State, error)
	Save(ctx context.Context, c cursor.Change) error
	Close() error
}

// opened gives, for each kind of store, a function that opens it again and again over the same storage.
func opened(t testing.TB, kind string, dir string) func() store {
	t.Helper()
	switch kind {
	case "memory":
		m := new(cursor.Memory)
		return func() store { return m }
	case "file":
		return func() store {
			f, err := cursor.OpenFile(filepath.Join(dir, "cursor.json"))
			if err != nil {
				t.Fatal(err)
			}
			return f
		}
	default:
		bus := transport.NewMemory(transport.MemoryOptions{})
		return func() store { return openShare(t, bus, slog.New(slog.DiscardHandler)) }
	}
}

// only is a topic's only share.
type only struct{ *cursor.Topic }

func (o only) Load(ctx context.Context) (cursor.State, error)  { return o.Topic.Load(ctx, 0) }
func (o only) Save(ctx context.Context, c cursor.Change) error { return o.Topic.Save(ctx, 0, c) }

// openShare opens a topic of one partition and takes it over.
func openShare(t testing.TB, bus transport.Bus, log *slog.Logger) only {
	t.Helper()
	topic, err := cursor.OpenTopic(t.Context(), bus, cursor.TopicOptions{Name: "c", Group: "c", Partitions: 1, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	load(t, only{topic})
	return only{topic}
}

func load(t testing.TB, s store) cursor.State {
	t.Helper()
	state, err := s.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return state
}

func save(t testing.TB, s store, c cursor.Change) {
	t.Helper()
	if err := s.Save(t.Context(), c); err != nil {
		t.Fatal(err)
	}
}

func TestStoresKeepEverything(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 3, 4, 5, 6, 7000, time.UTC)
	r := cursor.Range{
		ID: 7, Table: "public.a/b", Bounds: message.Range{Lo: message.Key{"1", "ü"}}, Cycle: 3, Rows: 10, Sum: 1<<64 - 1, Xmin: 9,
		Schema: 1 << 63, Digest: digest.Portable, VerifiedAt: at, CompleteAt: at.Add(-time.Hour),
	}
	change := cursor.Change{
		Source:  "731/shop",
		Tables:  []cursor.Table{{Name: "public.a/b", Cycle: 4, Started: at, Digest: digest.Record}},
		Ranges:  []cursor.Range{r},
		Samples: []cursor.Sample{{At: at, Xmin: 5}},
	}
	want := cursor.State{
		Source:  "731/shop",
		Tables:  map[string]cursor.Table{"public.a/b": change.Tables[0]},
		Ranges:  map[string][]cursor.Range{"public.a/b": {r}},
		Samples: change.Samples,
	}
	for _, kind := range []string{"memory", "file", "topic"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			open := opened(t, kind, t.TempDir())
			s := open()
			if got := load(t, s); got.Source != "" || len(got.Tables)+len(got.Ranges)+len(got.Samples) != 0 {
				t.Errorf("new store holds %+v", got)
			}
			save(t, s, change)
			for range 2 {
				if got := load(t, s); !reflect.DeepEqual(got, want) {
					t.Errorf("got %+v, want %+v", got, want)
				}
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				s = open()
			}
			save(t, s, cursor.Change{DroppedTables: []string{"public.a/b"}})
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = open()
			if got := load(t, s); len(got.Tables)+len(got.Ranges) != 0 || got.Source == "" || len(got.Samples) != 1 {
				t.Errorf("after the table was dropped: %+v", got)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// Any sequence of changes and restarts leaves every store with the same state.
func TestStoresAgree(t *testing.T) {
	t.Parallel()
	base := t.TempDir()
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		n++
		dir := filepath.Join(base, fmt.Sprint(n))
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		var (
			kinds  = []string{"memory", "file", "topic"}
			open   = map[string]func() store{}
			stores = map[string]store{}
			table  = rapid.SampledFrom([]string{"a", "b", "1/a"})
			ranges = rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) cursor.Range {
				return cursor.Range{ID: rapid.Uint64Range(1, 4).Draw(rt, "id"), Table: table.Draw(rt, "table"), Rows: rapid.Uint64().Draw(rt, "rows")}
			}), 0, 4)
		)
		for _, kind := range kinds {
			open[kind] = opened(t, kind, dir)
			stores[kind] = open[kind]()
		}
		for range rapid.IntRange(1, 6).Draw(rt, "changes") {
			c := cursor.Change{
				Source:        rapid.SampledFrom([]string{"", "x", "y"}).Draw(rt, "source"),
				Ranges:        ranges.Draw(rt, "ranges"),
				Removed:       ranges.Draw(rt, "removed"),
				DroppedTables: rapid.SliceOfN(table, 0, 1).Draw(rt, "dropped"),
			}
			if rapid.Bool().Draw(rt, "table changed") {
				c.Tables = []cursor.Table{{Name: table.Draw(rt, "table"), Cycle: rapid.Uint64().Draw(rt, "cycle")}}
			}
			for _, kind := range kinds {
				save(t, stores[kind], c)
			}
			if rapid.Bool().Draw(rt, "restart") {
				for _, kind := range kinds {
					if err := stores[kind].Close(); err != nil {
						rt.Fatal(err)
					}
					stores[kind] = open[kind]()
				}
			}
		}
		want := load(t, stores["memory"])
		for _, kind := range kinds {
			if got := load(t, stores[kind]); !reflect.DeepEqual(got, want) {
				rt.Errorf("%s: got %+v, want %+v", kind, got, want)
			}
			if err := stores[kind].Close(); err != nil {
				rt.Fatal(err)
			}
		}
	})
}

func TestFileIsWrittenAtMostOnceASecond(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "cursor.json")
	synctest.Test(t, func(t *testing.T) {
		f, err := cursor.OpenFile(path)
		if err != nil {
			t.Fatal(err)
		}
		cycle := func() uint64 {
			state, err := cursor.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			return state.Tables["a"].Cycle
		}
		began := time.Now()
		writes, last := 0, uint64(0)
		for i := range uint64(100) {
			save(t, f, cursor.Change{Tables: []cursor.Table{{Name: "a", Cycle: i + 1}}})
			synctest.Wait()
			if now := cycle(); now != last {
				writes, last = writes+1, now
			}
			time.Sleep(50 * time.Millisecond)
		}
		if seconds := int(time.Since(began) / time.Second); writes < seconds || writes > seconds+1 {
			t.Errorf("%d writes in %d s", writes, seconds)
		}
		save(t, f, cursor.Change{Tables: []cursor.Table{{Name: "a", Cycle: 1000}}})
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		if cycle() != 1000 {
			t.Errorf("Close left cycle %d in the file", cycle())
		}
	})
}

func TestDamagedFileSaysWhatToDo(t *testing.T) {
	t.Parallel()
	for name, content := range map[string]string{"cut off": `{"version":1,"tab`, "empty": "", "newer": `{"version":2}`, "foreign": `[]`} {
		path := filepath.Join(t.TempDir(), "cursor.json")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := cursor.OpenFile(path)
		if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "delete it") {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestFileThatCannotBeWrittenIsToldAndTriedAgain(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "later")
	synctest.Test(t, func(t *testing.T) {
		f, err := cursor.OpenFile(filepath.Join(dir, "cursor.json"))
		if err != nil {
			t.Fatal(err)
		}
		save(t, f, cursor.Change{Source: "x"})
		synctest.Wait()
		if err := f.Save(t.Context(), cursor.Change{}); err == nil || !strings.Contains(err.Error(), dir) {
			t.Errorf("got %v, want an error that names the place", err)
		}
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		save(t, f, cursor.Change{})
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		state, err := cursor.ReadFile(filepath.Join(dir, "cursor.json"))
		if err != nil || state.Source != "x" {
			t.Errorf("got %+v, %v", state, err)
		}
		left, err := filepath.Glob(filepath.Join(dir, ".*"))
		if err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	})
}

func TestUnreadableRecordsAreLeftOutAndReported(t *testing.T) {
	t.Parallel()
	bus := transport.NewMemory(transport.MemoryOptions{})
	var log bytes.Buffer
	s := openShare(t, bus, slog.New(slog.NewTextHandler(&log, nil)))
	save(t, s, cursor.Change{Source: "x", Ranges: []cursor.Range{{ID: 1, Table: "a"}, {ID: 2, Table: "a"}}})
	for key, value := range map[string]string{
		"range/1/a": "{", "range/3/a": `{"id":4,"table":"a"}`, "table/a": `{"name":"b"}`, "nonsense": "1", "samples": `"x"`,
		"plan/a": `{"table":"b"}`, "report/1/a": `{"table":"a","span":2}`, "claim/x": `{"id":"y"}`, "range/1": "",
	} {
		if err := bus.Send(t.Context(), transport.Record{Topic: "c", Key: []byte(key), Value: []byte(value)}); err != nil {
			t.Fatal(err)
		}
	}
	got := load(t, s)
	if got.Source != "x" || len(got.Tables) != 0 || len(got.Ranges["a"]) != 1 || got.Ranges["a"][0].ID != 2 {
		t.Errorf("got %+v", got)
	}
	if n := strings.Count(log.String(), "unreadable"); n != 9 {
		t.Errorf("%d reports:\n%s", n, &log)
	}
}
