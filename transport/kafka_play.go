package transport

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	playAhead = 64 << 20 // bytes, as they travel, that a player holds of all partitions together
	playLeast = 64 << 10 // and fetches of one at least
	playMost  = 4 << 20
)

// Player reads logs from a position on, each partition in order, with what transactions have committed only. Records come as they are: a value of nil deletes its key.
// It never skips: where a log has lost what comes next, that is an error that wraps ErrLost. Next may be called for several partitions at once.
type Player struct {
	kafka *Kafka
	from  Position
	most  int32 // bytes of one fetch

	mu    sync.Mutex
	feeds map[Partition]*feed
	stop  []context.CancelFunc
	fed   sync.WaitGroup
}

// feed is one partition: its goroutine fetches a batch ahead of what Next gives out.
type feed struct {
	batches chan batch
	again   chan struct{} // asks for another look, where the last one found nothing

	mu    sync.Mutex // of one caller of Next
	held  []*kgo.Record
	next  int64 // the first offset that is not known
	empty bool  // the last look found nothing
}

// batch is what one look has found.
type batch struct {
	records []*kgo.Record
	next    int64 // where the look after it goes on
	stable  int64 // no record comes any more before this that has not come
	end     int64 // of the log
	empty   bool
	err     error
}

// Play begins to read at a position, which has to be held (see Position.Held). A topic or a partition that appears later is read from its beginning, once Ends has seen it.
func (k *Kafka) Play(ctx context.Context, from Position) (*Player, error) {
	logs, err := k.Logs(ctx, from.Topics())
	if err != nil {
		return nil, err
	}
	if err := from.Held(logs); err != nil {
		return nil, err
	}
	p := &Player{kafka: k, from: slices.Clone(from), feeds: map[Partition]*feed{}}
	partitions := 1
	for _, l := range logs {
		partitions += len(l.Partitions)
	}
	p.most = int32(min(max(playAhead/2/partitions, playLeast), playMost))
	if !k.watch(p) {
		return nil, ErrClosed
	}
	if err := p.extend(ctx, logs); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

// Topics names them.
func (p Position) Topics() []string {
	out := make([]string, len(p))
	for i, t := range p {
		out[i] = t.Topic
	}
	return out
}

// Ends looks how far the logs reach now: as far as Next gives records without waiting for a transaction to end.
func (p *Player) Ends(ctx context.Context) (Position, error) {
	var ends Position
	err := p.kafka.patient(ctx, func() error {
		logs, err := p.kafka.logs(ctx, p.from.Topics())
		if err != nil {
			return err
		}
		if err := p.extend(ctx, logs); err != nil {
			return err
		}
		ends = Ends(logs)
		var there []string
		for _, l := range logs {
			if len(l.Partitions) > 0 {
				there = append(there, l.Topic)
			}
		}
		stable, err := p.kafka.offsets(ctx, p.kafka.admin.ListCommittedOffsets, there)
		for _, t := range ends {
			for n := range t.Offsets {
				if o, ok := stable.Lookup(t.Topic, int32(n)); ok {
					t.Offsets[n] = min(t.Offsets[n], o.Offset)
				}
			}
		}
		return err
	})
	return ends, err
}

// extend takes up partitions that it does not have yet.
func (p *Player) extend(ctx context.Context, logs []Log) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.from {
		t := &p.from[i]
		at := slices.IndexFunc(logs, func(l Log) bool { return l.Topic == t.Topic })
		if at < 0 {
			continue
		}
		l := logs[at]
		if t.ID != "" && l.ID != t.ID || len(l.Partitions) < len(t.Offsets) {
			return t.held(l)
		}
		t.ID = cmp.Or(t.ID, l.ID)
		for n := range l.Partitions {
			id := Partition{t.Topic, int32(n)}
			if _, ok := p.feeds[id]; !ok {
				p.begin(ctx, id, t.ID)
			}
		}
	}
	return nil
}

// begin starts a partition's goroutine. It lives until Close, whatever becomes of the caller's context.
func (p *Player) begin(ctx context.Context, at Partition, id string) {
	from, _ := p.from.Of(at.Topic)
	f := &feed{batches: make(chan batch), again: make(chan struct{}, 1), next: from.offset(int(at.ID))}
	p.feeds[at] = f
	life, stop := context.WithCancel(context.WithoutCancel(ctx))
	p.stop = append(p.stop, stop)
	l := &look{kafka: p.kafka, at: at, id: id, most: p.most, offset: f.next}
	p.fed.Go(func() { f.run(life, l) })
}

// Partitions returns those that exist, as far as is known.
func (p *Player) Partitions() []Partition {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]Partition, 0, len(p.feeds))
	for at := range p.feeds {
		out = append(out, at)
	}
	slices.SortFunc(out, func(a, b Partition) int {
		return cmp.Or(strings.Compare(a.Topic, b.Topic), cmp.Compare(a.ID, b.ID))
	})
	return out
}

// Next returns the partition's next record before end, and false where there is none and none will come any more: the last offsets before it
// may belong to transaction markers, to what was aborted, or be compacted away. It waits for a transaction that is open before end.
func (p *Player) Next(ctx context.Context, at Partition, end int64) (Record, bool, error) {
	p.mu.Lock()
	f := p.feeds[at]
	p.mu.Unlock()
	if f == nil {
		return Record{}, false, fmt.Errorf("%s is not being read", at)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	wait := waiting{at: at, end: end, since: time.Now(), log: p.kafka.options.Logger}
	for len(f.held) == 0 && f.next < end {
		if f.empty {
			select {
			case f.again <- struct{}{}:
			default:
			}
		}
		select {
		case <-ctx.Done():
			return Record{}, false, ctx.Err()
		case b, ok := <-f.batches:
			if !ok {
				return Record{}, false, ErrClosed
			}
			if b.err != nil {
				f.empty = true // whoever asks again has it tried again
				return Record{}, false, b.err
			}
			f.held, f.empty, f.next = b.records, b.empty, max(f.next, b.stable)
			if err := wait.more(ctx, b); len(f.held) == 0 && f.next < end && err != nil {
				return Record{}, false, err
			}
		}
	}
	if len(f.held) == 0 || f.held[0].Offset >= end {
		return Record{}, false, nil
	}
	r := f.held[0]
	f.held[0] = nil
	f.held = f.held[1:]
	return fromKafka(r), true, nil
}

// Close ends the reading, and with an error whoever waits in Next.
func (p *Player) Close() error {
	p.mu.Lock()
	for _, stop := range p.stop {
		stop()
	}
	p.mu.Unlock()
	p.fed.Wait()
	p.kafka.forget(p)
	return nil
}

// run looks on and on; once a look has found nothing, it waits to be asked. What ended it is told from then on.
func (f *feed) run(ctx context.Context, l *look) {
	defer close(f.batches)
	for {
		b := l.once(ctx)
		select {
		case f.batches <- b:
		case <-ctx.Done():
			return
		}
		if b.err == nil && !b.empty {
			continue
		}
		select {
		case <-f.again:
		case <-ctx.Done():
			return
		}
	}
}
