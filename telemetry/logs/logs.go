// Package logs is how the log reads: text for a person at a terminal, JSON for everything else, and never a flood.
//
// It decides in which form a line is written and which lines are folded into one, and nothing of what is said. What always holds: of lines with the same level and message
// the first few are written as they come; once there are more within a minute, one line a second, and later one in ten, stands for all of them, with how many they were (repeated), the sum of their rows, and what
// they have in common; what is below info is never folded; nothing is dropped without being counted; Flush, at the end of a process, writes what is still being counted. Durations are written as people read
// them in both forms. When a line can't be written it is lost, and nothing else is.
package logs

import (
	"cmp"
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"
)

const (
	burst  = 10               // lines of a kind that are written as they come
	window = time.Second      // then one line for what came in it
	lasts  = 10               // after so many of those it goes on for long,
	slow   = 10 * time.Second // and one comes in this time
	quiet  = time.Minute      // a kind of which none came for so long begins anew
)

// Forms of a log.
const (
	Text = "text"
	JSON = "json"
)

// New writes to w in a form, from a level on.
func New(w io.Writer, form string, level slog.Leveler) *Handler {
	o := &slog.HandlerOptions{Level: level, ReplaceAttr: readable}
	if form == Text {
		return Fold(slog.NewTextHandler(w, o))
	}
	return Fold(slog.NewJSONHandler(w, o))
}

// readable writes a duration as 1.5s, where JSON would have nanoseconds.
func readable(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindDuration {
		a.Value = slog.StringValue(a.Value.Duration().String())
	}
	return a
}

// Handler folds what comes too often. It is safe for concurrent use.
type Handler struct {
	next  slog.Handler
	kinds *kinds // shared with what With and WithGroup return
}

// Fold hands what it does not fold to another handler.
func Fold(next slog.Handler) *Handler { return &Handler{next, &kinds{known: map[kind]*flood{}}} }

// kind is what lines have to have in common to be folded.
type kind struct {
	level   slog.Level
	message string
}

type kinds struct {
	mu    sync.Mutex
	known map[kind]*flood
}

// flood is one kind within the last second.
type flood struct {
	timer   *time.Timer
	written int
	told    int // lines that stood for others
	idle    time.Duration

	folded int // what follows is of these
	last   slog.Record
	to     slog.Handler // of the last
	attrs  []slog.Attr
	rows   int64
}

// Enabled is that of the handler behind.
func (h *Handler) Enabled(ctx context.Context, l slog.Level) bool { return h.next.Enabled(ctx, l) }

// WithAttrs makes a handler whose lines are folded with those of this one.
func (h *Handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &Handler{h.next.WithAttrs(attrs), h.kinds}
}

// WithGroup does so with a group.
func (h *Handler) WithGroup(name string) slog.Handler {
	return &Handler{h.next.WithGroup(name), h.kinds}
}

// Handle writes a line, or counts it.
func (h *Handler) Handle(ctx context.Context, r slog.Record) error {
	if r.Level >= slog.LevelInfo && h.kinds.fold(h.next, r) { // who asks for more wants all of it
		return nil
	}
	return h.next.Handle(ctx, r)
}

// Flush writes what is being counted. Lines that come after it are written and folded as before.
func (h *Handler) Flush() error {
	h.kinds.mu.Lock()
	var rest []*flood
	for k, f := range h.kinds.known {
		f.timer.Stop()
		delete(h.kinds.known, k)
		rest = append(rest, f)
	}
	h.kinds.mu.Unlock()
	slices.SortFunc(rest, func(a, b *flood) int {
		return cmp.Or(a.last.Time.Compare(b.last.Time), cmp.Compare(a.last.Message, b.last.Message))
	})
	var errs []error
	for _, f := range rest {
		errs = append(errs, f.write())
	}
	return errors.Join(errs...)
}

// fold takes a line in, and tells whether it is not to be written now.
func (ks *kinds) fold(to slog.Handler, r slog.Record) bool {
	ks.mu.Lock()
	defer ks.mu.Unlock()
	k := kind{r.Level, r.Message}
	f := ks.known[k]
	if f == nil {
		f = &flood{}
		f.timer = time.AfterFunc(window, func() { ks.over(k, f) })
		ks.known[k] = f
	}
	f.idle = 0
	if f.written < burst {
		f.written++
		return false
	}
	f.add(to, r)
	return true
}

// over ends a second of a kind, or ten where it goes on for long: what was folded is written as one line. Where nothing came for a minute the kind is forgotten.
func (ks *kinds) over(k kind, f *flood) {
	ks.mu.Lock()
	if ks.known[k] != f {
		ks.mu.Unlock()
		return // flushed
	}
	whole, next := *f, window
	if f.folded > 0 {
		f.told++
		f.folded, f.attrs, f.rows = 0, nil, 0
	}
	if f.told >= lasts {
		next = slow
	}
	if f.idle += next; f.idle > quiet {
		delete(ks.known, k)
	} else {
		f.timer.Reset(next)
	}
	ks.mu.Unlock()
	_ = whole.write()
}

// summed is the key whose numbers add up.
const summed = "rows"

// example is the key of which the last value stands for all.
const example = "err"

// add keeps what a line has in common with those before.
func (f *flood) add(to slog.Handler, r slog.Record) {
	var attrs []slog.Attr
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == summed && a.Value.Kind() == slog.KindInt64 {
			f.rows += a.Value.Int64()
		}
		attrs = append(attrs, a)
		return true
	})
	if f.folded > 0 {
		attrs = slices.DeleteFunc(attrs, func(a slog.Attr) bool {
			return a.Key != summed && a.Key != example && !slices.ContainsFunc(f.attrs, a.Equal)
		})
	}
	f.folded, f.last, f.to, f.attrs = f.folded+1, r, to, attrs
}

// write writes the one line for all that were folded; none, where none were.
func (f *flood) write() error {
	switch f.folded {
	case 0:
		return nil
	case 1:
		return f.to.Handle(context.Background(), f.last)
	}
	r := slog.NewRecord(f.last.Time, f.last.Level, f.last.Message, f.last.PC)
	for _, a := range f.attrs {
		if a.Key == summed && a.Value.Kind() == slog.KindInt64 {
			a.Value = slog.Int64Value(f.rows)
		}
		r.AddAttrs(a)
	}
	r.AddAttrs(slog.Int("repeated", f.folded))
	return f.to.Handle(context.Background(), r)
}
