package cursor_test

import (
	"context"
	"testing"
	"time"

	"github.com/trickle-verify/trickle/cursor"
	"github.com/trickle-verify/trickle/telemetry/pulse"
	"github.com/trickle-verify/trickle/transport"
)

// gone is a bus whose broker is away once it is told so.
type gone struct {
	cursor.Bus
	away chan struct{}
}

func (g gone) SendTo(ctx context.Context, to int32, records ...transport.Record) error {
	select {
	case <-g.away:
		defer pulse.Away(ctx)()
		<-ctx.Done()
		return ctx.Err()
	default:
		return g.Bus.SendTo(ctx, to, records...)
	}
}

// While the broker is away one waits for it in Save; who only asks for the shares does not, and who has to wait for the first is not stuck.
func TestABrokerThatIsAway(t *testing.T) {
	t.Parallel()
	bus := transport.NewMemory(transport.MemoryOptions{})
	defer bus.Close()
	g := gone{bus, make(chan struct{})}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	topic, err := cursor.OpenTopic(ctx, g, cursor.TopicOptions{Name: "shop.cursors", Group: "shop", Partitions: 1, Owner: "a"})
	if err != nil {
		t.Fatal(err)
	}
	defer topic.Close()
	if _, err := topic.Load(ctx, 0); err != nil {
		t.Fatal(err)
	}
	close(g.away)
	const bound = 200 * time.Millisecond
	m := pulse.New(bound)
	ended := make(chan error, 2)
	for range 2 { // one of them holds the lock
		loop, end := pulse.Loop(m.In(ctx), "saving")
		t.Cleanup(end)
		go func() { ended <- topic.Save(loop, 0, cursor.Change{Samples: []cursor.Sample{{Xmin: 1}}}) }()
	}
	for began := time.Now(); time.Since(began) < 5*bound; time.Sleep(bound / 10) {
		asked := make(chan error, 1)
		go func() { _, err := topic.Shares(); asked <- err }()
		select {
		case err := <-asked:
			if err != nil {
				t.Fatal(err)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("whoever asks for the shares waits for the broker")
		}
		if s := m.State(); len(s.Stuck) > 0 {
			t.Fatal(s.Stuck)
		}
	}
	cancel()
	for range 2 {
		if err := <-ended; err == nil {
			t.Error("it was saved with no broker")
		}
	}
}
