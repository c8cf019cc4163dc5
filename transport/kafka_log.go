package transport

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// kafkaLogger hands the client's log to slog, one level down: what is a warning to the client is no news to the operator. A client whose broker is
// away warns several times a second, so each kind of warning is told once in tellAfter, with how many were left out since.
type kafkaLogger struct {
	logger *slog.Logger

	mu      sync.Mutex
	told    map[string]time.Time // by message
	leftOut map[string]int
}

func newKafkaLogger(l *slog.Logger) *kafkaLogger {
	return &kafkaLogger{logger: l, told: map[string]time.Time{}, leftOut: map[string]int{}}
}

func (l *kafkaLogger) Level() kgo.LogLevel {
	switch ctx := context.Background(); {
	case l.logger.Enabled(ctx, slog.LevelDebug):
		return kgo.LogLevelInfo
	case l.logger.Enabled(ctx, slog.LevelInfo):
		return kgo.LogLevelWarn
	default:
		return kgo.LogLevelError
	}
}

func (l *kafkaLogger) Log(level kgo.LogLevel, msg string, keyvals ...any) {
	ctx, to := context.Background(), slog.LevelDebug
	switch level {
	case kgo.LogLevelError:
		to = slog.LevelWarn
	case kgo.LogLevelWarn:
		to = slog.LevelInfo
	}
	if to == slog.LevelInfo && !l.logger.Enabled(ctx, slog.LevelDebug) {
		left, ok := l.due(msg)
		if !ok {
			return
		}
		if left > 0 {
			keyvals = append(slices.Clone(keyvals), "left_out", left)
		}
	}
	l.logger.Log(ctx, to, "kafka: "+msg, keyvals...)
}

// due is whether a message is to be told again, and how many of its kind were left out.
func (l *kafkaLogger) due(msg string) (left int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if last, told := l.told[msg]; told && time.Since(last) < tellAfter {
		l.leftOut[msg]++
		return 0, false
	}
	left = l.leftOut[msg]
	l.told[msg], l.leftOut[msg] = time.Now(), 0
	return left, true
}
