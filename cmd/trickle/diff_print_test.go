package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/trickle-verify/trickle/diff"
	"github.com/trickle-verify/trickle/internal/app"
	"github.com/trickle-verify/trickle/postgres"
)

// Rows that nobody could judge are never reported as fine.
func TestUnsettledIsNotIdentical(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		unsettled int64
		identical bool
		verdict   string
	}{{0, true, "2 tables, 20 rows: identical"}, {3, false, "2 tables, 20 rows: no difference, 3 rows not judged"}} {
		r := diff.Result{Table: diff.Table{Source: postgres.ParseName("public.t"), Replica: postgres.ParseName("public.t")}, Rows: 10, Unsettled: c.unsettled}
		var text, object bytes.Buffer
		for _, p := range []interface {
			app.Printer
			end(o app.Outcome) error
		}{&textPrinter{out: &text}, newJSONPrinter(&object)} {
			if err := p.Compared(r, nil); err != nil {
				t.Fatal(err)
			}
			if err := p.end(app.Outcome{Tables: 2, Rows: 20, Unsettled: c.unsettled}); err != nil {
				t.Fatal(err)
			}
		}
		var got struct{ Identical bool }
		if err := json.Unmarshal(object.Bytes(), &got); err != nil || got.Identical != c.identical {
			t.Errorf("%d unsettled: %s: %v", c.unsettled, object.Bytes(), err)
		}
		if !strings.Contains(text.String(), c.verdict) {
			t.Errorf("%d unsettled: %s", c.unsettled, text.String())
		}
	}
}

// What a terminal would obey is spelt out.
func TestNothingIsObeyed(t *testing.T) {
	t.Parallel()
	var text bytes.Buffer
	p := &textPrinter{out: &text}
	bad := postgres.Name{Schema: "public", Table: "a\x1b[2J"}
	if err := p.Found(diff.Table{Source: bad}, diff.Difference{Kind: "extra", Key: []diff.Field{{Name: "id", Value: "\xff\x1b]0;x"}}}); err != nil {
		t.Fatal(err)
	}
	if err := p.Compared(diff.Result{Table: diff.Table{Source: bad, Replica: bad}}, nil); err != nil {
		t.Fatal(err)
	}
	if out := text.Bytes(); bytes.IndexByte(out, 0x1b) >= 0 || bytes.IndexByte(out, 0xff) >= 0 {
		t.Errorf("%q", text.String())
	}
}
