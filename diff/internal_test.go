package diff

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/drift"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/message/tricklepb"
	"github.com/trickle-verify/trickle/postgres"
)

// A list that broke off is not a list that ended: what the other side has from there on would look missing or extra.
func TestABrokenListHasNoEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		lost := errors.New("lost")
		s := newStream()
		err := s.fill(func(pages chan<- []postgres.Entry) error {
			pages <- []postgres.Entry{{Hash: 1}}
			return lost
		})
		if !errors.Is(err, lost) {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		group, err := s.take(ctx, 1, nil)
		if len(group) != 1 || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("after the last row that came: %v, %v", group, err)
		}
	})
}

func TestAListThatEnded(t *testing.T) {
	t.Parallel()
	s := newStream()
	if err := s.fill(func(pages chan<- []postgres.Entry) error {
		pages <- []postgres.Entry{{Hash: 1}}
		pages <- nil
		pages <- []postgres.Entry{{Hash: 1}, {Hash: 2}}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	one, err := s.take(t.Context(), 1, nil)
	two, err2 := s.take(t.Context(), 2, nil)
	e, err3 := s.peek(t.Context())
	if len(one) != 2 || len(two) != 1 || e != nil || errors.Join(err, err2, err3) != nil {
		t.Errorf("%v, %v, %v: %v", one, two, e, errors.Join(err, err2, err3))
	}
}

// A comparison that was stopped between two statements has not compared the rest.
func TestStoppedBetweenStatements(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	c := &comparison{differ: New(nil, nil, Options{})}
	if err := c.byKey(ctx, []message.Range{{}}); !errors.Is(err, context.Canceled) {
		t.Errorf("stopped, and it says %v", err)
	}
}

// Whoever lists keeps count without a lock: he is asked and told one call at a time, whatever runs beside. The race detector sees to it.
func TestFoundAndListTakeTurns(t *testing.T) {
	t.Parallel()
	const most = 1000
	told := 0
	c := &comparison{differ: New(nil, nil, Options{
		Found: func(Table, Difference) error { told++; return nil }, List: func() bool { return told < most },
	})}
	c.sides[0] = &side{layout: &postgres.Layout{Schema: &tricklepb.Schema{}}}
	var telling sync.WaitGroup
	telling.Go(func() {
		for range 2 * most {
			if err := c.tell(Wrong{Kind: drift.Missing}, postgres.Detail{}, postgres.Detail{}); err != nil {
				t.Error(err)
			}
		}
	})
	for range most {
		c.settled(digest.Thumbprint{Rows: 1}, digest.Thumbprint{Rows: 2})
	}
	telling.Wait()
	if told != most || c.settled(digest.Thumbprint{Rows: 1}, digest.Thumbprint{}) != true {
		t.Errorf("%d were told", told)
	}
}

func TestRowsOfOneHash(t *testing.T) {
	t.Parallel()
	row := func(key string, digest uint64) postgres.Entry {
		return postgres.Entry{Hash: 7, Digest: digest, Key: message.Key{key}}
	}
	is := func(key string, kind drift.Kind) Wrong { return Wrong{message.Key{key}, kind} }
	for name, c := range map[string]struct {
		source, replica []postgres.Entry
		want            []Wrong
	}{
		"the same":             {[]postgres.Entry{row("a", 1)}, []postgres.Entry{row("a", 1)}, nil},
		"written otherwise":    {[]postgres.Entry{row("1.0", 1)}, []postgres.Entry{row("1.00", 1)}, nil},
		"mismatched":           {[]postgres.Entry{row("a", 1)}, []postgres.Entry{row("a", 2)}, []Wrong{is("a", drift.Mismatched)}},
		"missing":              {[]postgres.Entry{row("a", 1)}, nil, []Wrong{is("a", drift.Missing)}},
		"extra":                {nil, []postgres.Entry{row("a", 1)}, []Wrong{is("a", drift.Extra)}},
		"two the same":         {[]postgres.Entry{row("a", 1), row("b", 2)}, []postgres.Entry{row("b", 2), row("a", 1)}, nil},
		"two missing":          {[]postgres.Entry{row("a", 1), row("b", 2)}, nil, []Wrong{is("a", drift.Missing), is("b", drift.Missing)}},
		"one of two missing":   {[]postgres.Entry{row("a", 1), row("b", 2)}, []postgres.Entry{row("b", 2)}, []Wrong{is("a", drift.Missing)}},
		"one of two extra":     {[]postgres.Entry{row("b", 2)}, []postgres.Entry{row("a", 1), row("b", 2)}, []Wrong{is("a", drift.Extra)}},
		"two of one key":       {[]postgres.Entry{row("a", 1)}, []postgres.Entry{row("a", 1), row("a", 1)}, []Wrong{is("a", drift.Extra)}},
		"their digests change": {[]postgres.Entry{row("a", 1), row("b", 2)}, []postgres.Entry{row("a", 2), row("b", 1)}, []Wrong{is("a", drift.Mismatched), is("b", drift.Mismatched)}},
	} {
		got := compare(nil, c.source, c.replica)
		if !slices.EqualFunc(got, c.want, func(a, b Wrong) bool { return a.Kind == b.Kind && a.Key.ID() == b.Key.ID() }) {
			t.Errorf("%s: %v, not %v", name, got, c.want)
		}
	}
}
