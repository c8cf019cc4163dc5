package laws

import (
	"context"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/trickle-verify/trickle/detector"
	"github.com/trickle-verify/trickle/message/tricklepb"
)

// box delivers messages once and notes their commit.
type box struct {
	deliveries []detector.Delivery
	committed  chan struct{}
}

func (b *box) Fetch(ctx context.Context) ([]detector.Delivery, error) {
	if out := b.deliveries; out != nil {
		b.deliveries = nil
		return out, nil
	}
	<-ctx.Done()
	return nil, ctx.Err()
}

func (b *box) Commit(context.Context) error {
	close(b.committed)
	return nil
}

// A table that the publisher or the replica refuses, and a message that makes no sense, are paused or passed over with the reason; they never keep the
// messages behind them waiting.
func TestNoMessageBlocksTheOthers(t *testing.T) {
	t.Parallel()
	p := newPair(t, strings.Replace(lawPolicy, "public.t", "public.*", 1), 50)
	p.caughtUp()
	p.scan()
	good := p.sent[0]
	about := func(table string, edit func(*tricklepb.Envelope)) detector.Delivery {
		env := proto.CloneOf(good)
		env.Table = table
		edit(env)
		return detector.Delivery{Where: "laws.verify/0@0", Envelope: env}
	}
	p.exec(p.dst, `UPDATE t SET v = 'edited' WHERE id = 7`)
	b := &box{committed: make(chan struct{}), deliveries: []detector.Delivery{
		about("public.dropped", func(*tricklepb.Envelope) {}),
		about("public.t", func(env *tricklepb.Envelope) {
			env.GetThumbprint().Range = &tricklepb.Range{Hi: &tricklepb.Key{Values: []string{"abc"}}}
		}),
		about("public.t", func(env *tricklepb.Envelope) {
			env.GetThumbprint().LeftOut = []*tricklepb.Key{{Values: []string{"1", "2"}}}
		}),
		about("public.t", func(env *tricklepb.Envelope) { env.GetThumbprint().LeftOut = []*tricklepb.Key{nil} }),
		about("public.t", func(env *tricklepb.Envelope) { env.Body = &tricklepb.Envelope_Rows{} }),
		about("public.t", func(env *tricklepb.Envelope) { env.Body = &tricklepb.Envelope_ErrorReply{} }),
		about("no.such.table\x00\"", func(*tricklepb.Envelope) {}),
		{Where: "laws.verify/0@7", Err: context.DeadlineExceeded},
		about("public.t", func(*tricklepb.Envelope) {}),
	}}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.detector.Run(ctx, b) }()
	select {
	case <-b.committed:
	case <-time.After(30 * time.Second):
		t.Error("the messages behind a bad one were never dealt with")
	}
	p.eventuallyIn(`SELECT count(*) FROM trickle.corrections WHERE outcome = 'confirmed'`, "1")
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	p.identical()
	p.want(`SELECT paused <> '' FROM trickle.tables WHERE table_name = 'public.dropped'`, "true")
	p.want(`SELECT refused >= 2 FROM trickle.pipelines`, "true")
}
