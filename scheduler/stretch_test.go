package scheduler

import (
	"strconv"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/trickle-verify/trickle/cursor"
	"github.com/trickle-verify/trickle/message"
)

// However many spans of a table are ours and however many ranges they have, stretches are bounded, come in key order, and hold each range once.
func TestStretches(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		most := rapid.IntRange(1, 30).Draw(t, "most")
		s := &Scheduler{spans: map[spanID]*span{}}
		tbl := &table{name: "public.t"}
		ranges, verified, at := 0, 0, 0
		spans := rapid.IntRange(1, 4).Draw(t, "spans")
		for n := range spans {
			sp := &span{table: tbl, number: n, share: spans - n}
			for range rapid.IntRange(1, 40).Draw(t, "ranges") {
				r := cursor.Range{Rows: 10, Bounds: message.Range{Lo: message.Key{strconv.Itoa(at)}, Hi: message.Key{strconv.Itoa(at + 1)}}}
				if rapid.Bool().Draw(t, "verified") {
					r.VerifiedAt = time.Unix(int64(1000+at), 0)
					verified++
				}
				sp.chain = append(sp.chain, r)
				at++
				ranges++
			}
			at++ // what lies between is another publisher's
			s.spans[sp.id()] = sp
		}
		out := s.Stretches(most)["public.t"]
		if len(out) > most+spans-1 {
			t.Fatalf("%d stretches, allowed are %d in each of %d spans", len(out), most, spans)
		}
		last := -1
		for _, st := range out {
			lo, _ := strconv.Atoi(st.Bounds.Lo[0])
			hi, _ := strconv.Atoi(st.Bounds.Hi[0])
			if lo <= last-1 || hi-lo != st.Ranges {
				t.Fatalf("a stretch of %d ranges from %d to %d, after %d", st.Ranges, lo, hi, last)
			}
			last = hi
			ranges, verified = ranges-st.Ranges, verified-st.Verified
			if st.Rows != uint64(10*st.Verified) || (st.Verified == 0) != st.Oldest.IsZero() || st.Newest.Before(st.Oldest) {
				t.Fatalf("a stretch is %+v", st)
			}
		}
		if ranges != 0 || verified != 0 {
			t.Fatalf("%d ranges are lost, %d verified ones", ranges, verified)
		}
	})
}
