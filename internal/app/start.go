package app

import (
	"context"
	"errors"
	"io"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/trickle-verify/trickle/postgres"
	"github.com/trickle-verify/trickle/status"
	"github.com/trickle-verify/trickle/telemetry/pulse"
)

// started is what a start came to: what runs from now on, and what is shown of it.
type started struct {
	parts []func(context.Context) error
	page  status.Page
}

// serve opens the status port, starts, and runs what was started until the context ends or a part fails for good. Probes are answered from the beginning.
func (s Settings) serve(ctx context.Context, start func(context.Context, *stack) (started, error)) error {
	if _, _, err := s.readPolicy(); err != nil { // said before anything of the machine's is
		return err
	}
	monitor := pulse.New(pulse.Bound)
	defer context.AfterFunc(ctx, monitor.Ending)()
	ctx = monitor.In(ctx)
	port, err := status.Listen(ctx, s.Listen, status.Probes{State: monitor.State})
	if err != nil {
		return err
	}
	defer port.Close()
	if s.Listening != nil && port.Address() != "" {
		s.Listening(port.Address())
	}
	var st stack
	defer st.close()
	begun, err := s.reach(ctx, monitor, &st, start)
	if err != nil {
		return err
	}
	monitor.Started()
	g, ctx := errgroup.WithContext(ctx)
	for _, part := range begun.parts {
		g.Go(func() error { return part(ctx) })
	}
	g.Go(func() error { return port.Serve(ctx, begun.page) })
	return ended(ctx, g.Wait())
}

const (
	reachFirst = time.Second
	reachMost  = 15 * time.Second
)

// reach starts, again and again while a database or Kafka is away, for as long as Wait says. What is wrong in another way is no matter of waiting.
func (s Settings) reach(ctx context.Context, monitor *pulse.Monitor, st *stack, start func(context.Context, *stack) (started, error)) (started, error) {
	began, pause := time.Now(), reachFirst
	monitor.Starting("connecting")
	for {
		var attempt stack
		begun, err := start(ctx, &attempt)
		if err == nil {
			st.push(attempt.close)
			return begun, nil
		}
		attempt.close()
		if ctx.Err() != nil || !away(err) || time.Since(began)+pause > s.Wait {
			return started{}, err
		}
		monitor.Starting("waiting: " + err.Error())
		s.Log.Warn("waiting to start", "err", err, "retry_in", pause)
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return started{}, err
		case <-timer.C:
		}
		pause = min(2*pause, reachMost)
	}
}

// away tells an error that waiting may cure: a database or a broker can't be reached.
func away(err error) bool {
	return postgres.Away(err) || errors.Is(err, io.EOF)
}
