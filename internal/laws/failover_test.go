package laws

import (
	"errors"
	"testing"

	"github.com/trickle-verify/trickle/detector"
	"github.com/trickle-verify/trickle/message/tricklepb"
)

// The source fails over while a correction is under way: the refetch comes from the new primary, which may lack what CDC has delivered and still
// delivers. Nothing is written until a heartbeat of the new timeline has come through.
func TestFailoverBetweenTheLookAndTheWrite(t *testing.T) {
	t.Parallel()
	p := newPair(t, lawPolicy, 50)
	p.exec(p.dst, `UPDATE t SET v = 'edited' WHERE id = 7`)
	p.exec(p.dst, `DELETE FROM t WHERE id = 8`)
	p.caughtUp()
	p.scan()
	p.mu.Lock()
	p.after = func(req, reply *tricklepb.Envelope) {
		if req.GetRefetchRequest() != nil {
			reply.Timeline = 2
		}
	}
	p.mu.Unlock()
	p.settle()
	p.want(`SELECT count(*) FROM trickle.corrections`, "0")
	p.want(`SELECT count(*) FROM trickle.suspects`, "2")
	p.beat.onto(2)
	p.settle()
	p.want(`SELECT count(*) FROM trickle.corrections WHERE outcome = 'confirmed'`, "2")
	p.identical()
}

// A publisher that lost sight of the failover goes on reading the old primary, where time has stopped: nothing is taken from it.
func TestAnswersOfTheOldPrimary(t *testing.T) {
	t.Parallel()
	p := newPair(t, lawPolicy, 50)
	p.exec(p.dst, `UPDATE t SET v = 'of the new primary' WHERE id = 7`)
	p.caughtUp()
	p.scan()
	p.beat.onto(2)
	if err := p.settleOnce(); err != nil {
		t.Fatal(err)
	}
	var outdated *detector.OutdatedError
	p.detector.Source().Forget("public.t")
	if _, err := p.detector.Source().Table(t.Context(), "public.t", 0); !errors.As(err, &outdated) {
		t.Errorf("%v, want the answer refused", err)
	}
	p.want(`SELECT count(*) FROM trickle.corrections`, "0")
	p.want(`SELECT v FROM t WHERE id = 7`, "of the new primary")
}
