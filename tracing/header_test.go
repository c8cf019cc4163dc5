package tracing

import (
	"context"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/trace"
)

const known = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

// Headers may be anything: what is no sensible time, or no trace, is as if it were not there.
func TestReceivedFromAnybody(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 1, 12, 0, 1, 0, time.UTC)
	for _, c := range []struct {
		scan, parent string
		known        bool
		picked       bool
	}{
		{scan: "1793534400000000 1000", parent: known, known: true, picked: true},
		{},
		{scan: "1793534400000000", parent: strings.ToUpper(known)},
		{scan: "1793534400000000 -1", parent: known[:54] + "0"},
		{scan: "9223372036854775807 9223372036854775807", parent: known + "-more"},
		{scan: "0 0", parent: "00-00000000000000000000000000000000-b7ad6b7169203331-01"},
		{scan: "1793534400000000 1000 1", parent: "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01"},
		{scan: strings.Repeat(" ", 100) + "1793534400000000 1000", parent: strings.Repeat("0", 1<<20)},
		{scan: "\x00\xff", parent: "00-0af7651916cd43dd8448eb211c8031zz-b7ad6b7169203331-01"},
	} {
		got, picked := Received(map[string]string{scanHeader: c.scan, parentHeader: c.parent}, at)
		if got.Scan.IsZero() == c.known || picked.IsValid() != c.picked {
			t.Errorf("scan %.60q, parent %.60q: read as %+v, %v", c.scan, c.parent, got, picked)
		}
	}
}

// Beyond the bound the rest is left out, and a header that is larger is not looked at.
func TestCorrectionsAreBounded(t *testing.T) {
	t.Parallel()
	of := make([]Confirming, 3*mostCorrections)
	now := time.Now().UTC().Truncate(time.Microsecond)
	for i := range of {
		of[i] = Confirming{Trace: NewTrace(), Scanned: Scanned{Scan: Stretch{now, now.Add(time.Second)}, Publish: Stretch{now.Add(time.Second), now.Add(2 * time.Second)}, LSN: 1 << 63, Rows: 5000}}
	}
	text := lines(of)
	if got := confirming(text); len(got) != mostCorrections || got[0] != of[0] || got[mostCorrections-1] != of[mostCorrections-1] || len(text) > mostLines {
		t.Errorf("%d corrections are %d bytes, and %d of them are read", len(of), len(text), len(got))
	}
	if got := confirming(strings.Repeat("0af7651916cd43dd8448eb211c80319c\n", mostCorrections+1)); len(got) != mostCorrections {
		t.Errorf("%d are read of more", len(got))
	}
	if got := confirming(strings.Repeat("x", mostLines+1)); got != nil {
		t.Errorf("%d are read of a header that is too large", len(got))
	}
}

func FuzzHeaders(f *testing.F) {
	f.Add("1793534400000000 1000", known, lines([]Confirming{{Trace: trace.TraceID{1}}}), Way{Message: "m", Receive: Stretch{time.Unix(1e9, 0), time.Unix(1e9, 1)}}.Text())
	f.Fuzz(func(t *testing.T, scan, parent, corrections, kept string) {
		s, picked := Received(map[string]string{scanHeader: scan, parentHeader: parent}, time.Now())
		for _, p := range []Stretch{s.Scan, s.Publish} {
			if p.End.Before(p.Begin) || p.End.Sub(p.Begin) > mostTook {
				t.Errorf("it took from %s to %s", p.Begin, p.End)
			}
		}
		if picked.IsValid() && Parent(picked) != parent {
			t.Errorf("%q is read as %s", parent, Parent(picked))
		}
		if got := confirming(corrections); len(got) > mostCorrections {
			t.Errorf("%d corrections are read", len(got))
		}
		if w, ok := ParseWay(kept); ok {
			if again, ok := ParseWay(w.Text()); !ok || again != w {
				t.Errorf("%+v comes back as %+v", w, again)
			}
		}
	})
}

// An answer gives back what others put into the headers of a question, and not what is only for the publisher.
func TestEcho(t *testing.T) {
	t.Parallel()
	ctx := context.WithValue(t.Context(), confirmingKey{}, []Confirming{{Trace: trace.TraceID{1}}})
	headers := Question(ctx)
	headers["theirs"] = "1"
	if got := Echo(headers); len(headers) != 2 || len(got) != 1 || got["theirs"] != "1" {
		t.Errorf("of %v it gives back %v", headers, got)
	}
}
