package command

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"go.opentelemetry.io/otel"
)

// What OpenTelemetry could not send is said in the log, in its form.
func TestTelemetryThatCantBeSentIsLogged(t *testing.T) { //nolint:paralleltest // OpenTelemetry has one place for it in a process
	f := Flags{level: "info", logs: "json"}
	var file bytes.Buffer
	if _, err := f.SettingsTo(&file); err != nil {
		t.Fatal(err)
	}
	otel.Handle(errors.New("connection refused"))
	if got := file.String(); !strings.HasPrefix(got, "{") || !strings.Contains(got, `"level":"WARN","msg":"telemetry can't be sent","err":"connection refused"`) {
		t.Errorf("the log has %q", got)
	}
}

// lit is a terminal to whoever asks.
type lit struct{ bytes.Buffer }

func (*lit) Terminal() bool { return true }

// A person reads text, a program JSON, unless the flag says otherwise.
func TestFormOfTheLog(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		flag     string
		terminal bool
		want     string
	}{
		{"auto", true, "level=INFO msg=said took=2s"}, {"auto", false, `"level":"INFO","msg":"said","took":"2s"}`},
		{"json", true, `"msg":"said"`}, {"text", false, "msg=said"},
	} {
		f := Flags{level: "info", logs: c.flag}
		var file bytes.Buffer
		var person lit
		out := &file
		s, err := f.SettingsTo(&file)
		if c.terminal {
			out = &person.Buffer
			s, err = f.SettingsTo(&person)
		}
		if err != nil {
			t.Fatal(err)
		}
		s.Log.Info("said", slog.Duration("took", 2e9))
		if !strings.Contains(out.String(), c.want) {
			t.Errorf("--log-format %s, terminal %v: %q, want %q", c.flag, c.terminal, out, c.want)
		}
	}
}
