package scanner

import (
	"log/slog"
	"sync"
	"time"

	"github.com/trickle-verify/trickle/postgres"
)

// cancelledEvery is how often cancelled reads are logged at most.
const cancelledEvery = time.Minute

// notice logs what happens to the source while it is read: that another server is the source now, and that a standby cancels reads. The zero value is ready.
type notice struct {
	mu     sync.Mutex
	known  bool
	last   postgres.Seen
	logged time.Time
}

func (n *notice) look(seen postgres.Seen, log *slog.Logger) {
	n.mu.Lock()
	defer n.mu.Unlock()
	changed := seen.Standby != n.last.Standby || seen.Timeline != n.last.Timeline && seen.Timeline != 0 && n.last.Timeline != 0
	if n.known && changed {
		log.Warn("the source is another server now, or another role of it", "standby", seen.Standby, "timeline", seen.Timeline, "was_standby", n.last.Standby, "was_timeline", n.last.Timeline)
	}
	if seen.Timeline == 0 {
		seen.Timeline = n.last.Timeline
	}
	if seen.Cancelled > n.last.Cancelled {
		if time.Since(n.logged) < cancelledEvery {
			seen.Cancelled = n.last.Cancelled // told with the next
		} else {
			n.logged = time.Now()
			log.Warn("reads were in the way of the standby's replay, which cancelled them, and are tried again; see hot_standby_feedback and max_standby_streaming_delay there",
				"reads", seen.Cancelled-n.last.Cancelled)
		}
	}
	n.known, n.last = true, seen
}
