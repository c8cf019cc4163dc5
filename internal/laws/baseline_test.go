package laws

import (
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/trickle-verify/trickle/message/tricklepb"
)

// A set of the base-line view is remembered if it is of the pinned source, and changes nothing else.
func TestABaselineIsHeardOf(t *testing.T) {
	t.Parallel()
	p := newPair(t, lawPolicy, 10)
	p.scan()
	pinned, err := p.ledger.Pin(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	tell := func(source, set string, taken *timestamppb.Timestamp) {
		t.Helper()
		err := p.detector.Handle(t.Context(), "verify/0@1", &tricklepb.Envelope{Pipeline: "laws", Source: source, Body: &tricklepb.Envelope_Baseline{Baseline: &tricklepb.Baseline{
			Set: set, Taken: taken, Manifest: []byte{1}, Position: []*tricklepb.TopicPosition{{Topic: "x", Id: "1", Offsets: []int64{5}}},
			Tables: []*tricklepb.BaselineTable{{Table: "public.t", Rows: 10, Sum: 99, Digest: tricklepb.DigestKind_DIGEST_KIND_RECORD, Probe: 3, Schema: 4}},
		}}})
		if err != nil {
			t.Error(err)
		}
	}
	now := timestamppb.New(time.Now())
	tell("1/elsewhere", "foreign", now)
	tell(pinned, "", now)
	tell(pinned, "undated", nil)
	tell(pinned, "ours", now)
	sets, err := p.ledger.Baselines(t.Context())
	if err != nil || len(sets) != 1 {
		t.Fatalf("%d sets, %v", len(sets), err)
	}
	if b := sets[0]; b.Set != "ours" || b.Source != pinned || b.Position[0].Offsets[0] != 5 || b.Tables[0].Sum != 99 {
		t.Errorf("%+v", b)
	}
	r, err := p.ledger.Report(t.Context())
	if err != nil || r.Refused != 3 {
		t.Errorf("%d messages are refused, %v", r.Refused, err)
	}
	for _, table := range r.Tables {
		if table.Paused != "" {
			t.Errorf("%s is paused: %s", table.Table, table.Paused)
		}
	}
}
