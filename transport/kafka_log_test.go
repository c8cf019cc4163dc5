package transport

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

func TestABrokerThatIsAwayDoesNotFillTheLog(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		l := newKafkaLogger(slog.New(slog.NewTextHandler(&out, nil)))
		for range 4 * 60 {
			l.Log(kgo.LogLevelWarn, "unable to open connection to broker", "addr", "kafka:9092")
			time.Sleep(time.Second / 4)
		}
		l.Log(kgo.LogLevelWarn, "something else")
		l.Log(kgo.LogLevelError, "an error")
		l.Log(kgo.LogLevelError, "an error")
		told := strings.Split(strings.TrimSpace(out.String()), "\n")
		if n := len(told) - 3; n < 2 || n > 20 {
			t.Errorf("%d lines of a minute without a broker:\n%s", n, out.String())
		}
		if !strings.Contains(told[1], "left_out=") || strings.Contains(told[0], "left_out") {
			t.Errorf("how many were left out:\n%s\n%s", told[0], told[1])
		}
	})
}
