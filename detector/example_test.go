package detector_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/trickle-verify/trickle/detector"
	"github.com/trickle-verify/trickle/entry"
	"github.com/trickle-verify/trickle/gate"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/notebook"
	"github.com/trickle-verify/trickle/policy"
	"github.com/trickle-verify/trickle/sidechannel"
	"github.com/trickle-verify/trickle/transport"
)

const rules = `
pipeline: shop
quiet: 1ms
tables: [{table: public.prices}]
gate: {assume_lag: 100ms}          # CDC is never further behind the source than this
detect: {confirm: {delay: 10ms}}
`

// verify keeps a cache honest until the context ends. The bus is a Kafka or, as here, memory.
func verify(ctx context.Context, cache *Cache, bus transport.Bus) error {
	rules, _, err := policy.Parse("policy.yaml", []byte(rules))
	if err != nil {
		return err
	}
	topics := message.Topics{Pipeline: rules.Pipeline}
	asker := sidechannel.New(bus, message.Codec{}, sidechannel.Options{Pipeline: rules.Pipeline, Consumer: "cache"})
	verifier := detector.New(rules, detector.Parts{
		Replica: cache,
		Ledger:  cache.notes,
		Asker:   asker,
		Gate:    gate.New(rules.Gate, gate.Parts{}),
		Log:     slog.New(slog.DiscardHandler),
		Self:    "the cache", // anything that no source is called
		NewID:   rand.Text,
	})
	parts, ctx := errgroup.WithContext(ctx)
	parts.Go(func() error { return asker.Run(ctx) })
	parts.Go(func() error {
		messages, err := bus.Group(ctx, topics.DetectorGroup("cache"), topics.Verify())
		if err != nil {
			return err
		}
		return errors.Join(verifier.Run(ctx, inbox{messages}), messages.Close())
	})
	return parts.Wait()
}

// inbox hands the detector what the bus delivers.
type inbox struct{ transport.Reader }

func (i inbox) Fetch(ctx context.Context) ([]detector.Delivery, error) {
	records, err := i.Reader.Fetch(ctx)
	deliveries := make([]detector.Delivery, len(records))
	for n, r := range records {
		deliveries[n].Where = fmt.Sprintf("%s/%d@%d", r.Topic, r.Partition, r.Offset)
		deliveries[n].Envelope, deliveries[n].Err = message.Codec{}.Decode(r.Topic, r.Value)
	}
	return deliveries, err
}

func confirmed(notes *notebook.Notebook) int {
	n := 0
	for _, c := range notes.Corrections() {
		if c.Outcome == entry.Confirmed {
			n++
		}
	}
	return n
}

// A detector over a cache that lacks a row, has another wrong and one too many: a real Postgres is the source.
func Example() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	parsed, _, err := policy.Parse("policy.yaml", []byte(rules))
	if err != nil {
		fmt.Println(err)
		return
	}
	shop, err := openShop(ctx, parsed)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer shop.close(context.Background())

	cache := &Cache{notes: notebook.New(parsed.Detect), rows: make(map[string]Row)}
	cache.Put("chair", map[string]string{"article": "chair", "price": "49.5", "stock": "7"}) // 49.50 at the source: equal
	cache.Put("desk", map[string]string{"article": "desk", "price": "120.00", "stock": "1", "note": "oak"})
	cache.Put("lamp", map[string]string{"article": "lamp", "price": "19.90", "stock": "0"})
	cache.Put("stool", map[string]string{"article": "stool", "price": "25.00", "stock": "2"}) // its delete never came

	verifying, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- verify(verifying, cache, shop.bus) }()
	if err := shop.verify(ctx); err != nil {
		fmt.Println(err)
	}
	for ctx.Err() == nil && confirmed(cache.notes) < 3 {
		time.Sleep(10 * time.Millisecond)
	}
	stop()
	if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
		fmt.Println(err)
	}

	corrections := cache.notes.Corrections()
	slices.SortFunc(corrections, func(a, b notebook.Correction) int { return strings.Compare(a.Key.String(), b.Key.String()) })
	for _, c := range corrections {
		fmt.Printf("%s %s, %s: %q became %q\n", c.Key, c.Kind, c.Outcome, c.Before, c.After)
	}
	// Output:
	// desk mismatched, confirmed: "article=desk note=oak price=120.00 stock=1" became "article=desk note=oak price=210.00 stock=1"
	// shelf missing, confirmed: "" became "article=shelf note=pine price=80.00 stock=3"
	// stool extra, confirmed: "article=stool price=25.00 stock=2" became ""
}
