package app

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/message/tricklepb"
	"github.com/trickle-verify/trickle/policy"
	"github.com/trickle-verify/trickle/transport"
)

func keyed(values ...string) *tricklepb.Key { return message.Key(values).Proto() }

func bounds(lo, hi string) *tricklepb.Range {
	r := message.Range{Lo: bound(lo), Hi: bound(hi)}
	return r.Proto()
}

// tapped are records of every sort, an hour apart.
func tapped(t *testing.T) []transport.Record {
	t.Helper()
	null, secret := &tricklepb.Value{}, &tricklepb.Value{Text: []byte("secret")}
	var records []transport.Record
	for i, env := range []*tricklepb.Envelope{
		{Table: "public.t", Body: &tricklepb.Envelope_Thumbprint{Thumbprint: &tricklepb.Thumbprint{Range: bounds("", "100"), Rows: 5, LeftOut: []*tricklepb.Key{keyed("42")}}}},
		{Table: "public.u", Body: &tricklepb.Envelope_Rows{Rows: &tricklepb.Rows{
			Thumbprint: &tricklepb.Thumbprint{Range: bounds("100", "")}, Columns: []string{"id", "v"}, Rows: []*tricklepb.Row{{Key: keyed("142"), Values: []*tricklepb.Value{secret, null}}},
		}}},
		{Table: "public.t", Consumer: "a", Body: &tricklepb.Envelope_RefetchRequest{RefetchRequest: &tricklepb.RefetchRequest{Keys: []*tricklepb.Key{keyed("1", "b"), keyed("2", "c")}}}},
		{Table: "public.t", Consumer: "b", Body: &tricklepb.Envelope_KeyDigestsRequest{KeyDigestsRequest: &tricklepb.KeyDigestsRequest{Range: bounds("90", "95")}}},
		{Table: "public.t", Body: &tricklepb.Envelope_StreamReply{StreamReply: &tricklepb.StreamReply{Range: bounds("5", "9"), Rows: 3, Data: []byte("secret rows")}}},
	} {
		value, err := message.Codec{}.Encode("p.verify", env)
		if err != nil {
			t.Fatal(err)
		}
		records = append(records, transport.Record{Topic: "p.verify", Offset: int64(i), Value: value, At: time.Date(2026, 1, 1, i, 0, 0, 0, time.UTC), Headers: map[string]string{"traceparent": "00-1"}})
	}
	records = append(records, transport.Record{Topic: "p.verify", Offset: 5, Value: []byte("\x07"), At: time.Date(2026, 1, 1, 5, 0, 0, 0, time.UTC)})
	value, err := message.Codec{}.Encode("p.verify", &tricklepb.Envelope{Table: "public.v", Body: &tricklepb.Envelope_Paused{Paused: &tricklepb.Paused{Reason: "it has no key"}}})
	if err != nil {
		t.Fatal(err)
	}
	return append(records, transport.Record{Topic: "p.verify", Offset: 6, Value: value, At: time.Date(2026, 1, 1, 6, 0, 0, 0, time.UTC)})
}

// tap prints records and returns the lines, and the offsets of what they are of.
func tap(t *testing.T, tap Tap, records []transport.Record) (text, offsets string) {
	t.Helper()
	var out bytes.Buffer
	tap.Out = &out
	var err error
	if tap.Filter, err = tap.Filter.checked("p.replies.a", message.Topics{Pipeline: "p"}); err != nil {
		t.Fatal(err)
	}
	if err := tap.envelopes(message.Codec{})(records); err != nil && !errors.Is(err, errEnough) {
		t.Fatal(err)
	}
	for line := range strings.Lines(out.String()) {
		var l struct{ Offset int }
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Errorf("%v: %s", err, line)
		}
		offsets += fmt.Sprint(l.Offset)
	}
	return out.String(), offsets
}

func TestTapFilters(t *testing.T) {
	t.Parallel()
	records := tapped(t)
	for _, c := range []struct {
		name string
		f    TapFilter
		want string
	}{
		{"all", TapFilter{}, "0123456"},
		{"a table", TapFilter{Tables: []string{"u"}}, "1"},
		{"a kind", TapFilter{Kinds: []string{"thumbprint", "refetch"}}, "02"},
		{"a kind of request", TapFilter{Kinds: []string{"keydigests"}}, "3"},
		{"what is not scanned", TapFilter{Kinds: []string{"paused"}}, "6"},
		{"what can't be read", TapFilter{Kinds: []string{"unreadable"}}, "5"},
		{"a consumer", TapFilter{Consumer: "a", Kinds: []string{"refetch", "keydigests"}}, "2"},
		{"a key that was left out", TapFilter{Key: "42"}, "0"},
		{"a key of two columns", TapFilter{Key: "2,c"}, "2"},
		{"a bound", TapFilter{Key: "100"}, "01"},
		{"a hash", TapFilter{Key: policy.Privacy{Keys: "hash"}.Key("142")}, "1"},
		{"a hash of two columns", TapFilter{Key: policy.Privacy{Keys: "hash"}.Key("(1,b)")}, "2"},
		{"a range, by number", TapFilter{Range: "9..91"}, "03"},
		{"a range without an end", TapFilter{Range: "95.."}, "01"},
		{"a range of single keys", TapFilter{Range: "1,a..1,z"}, "02"},
		{"a time", TapFilter{Since: time.Date(2026, 1, 1, 4, 0, 0, 0, time.UTC)}, "456"},
		{"so many", TapFilter{Limit: 2}, "01"},
		{"so many of those", TapFilter{Limit: 1, Tables: []string{"public.u"}}, "1"},
	} {
		if text, got := tap(t, Tap{Filter: c.f}, records); got != c.want {
			t.Errorf("%s: %s, want %s\n%s", c.name, got, c.want, text)
		}
	}
}

func TestTapShowsWhatThePolicyAllows(t *testing.T) {
	t.Parallel()
	records := tapped(t)
	for _, c := range []struct {
		p         policy.Privacy
		want, not []string
	}{
		{policy.Privacy{Keys: "show", Values: "show"}, []string{`"values":["42"]`, `"values":["secret",null]`, `"values":["1","b"]`, `"data":`, `"traceparent":"00-1"`, `"kind":"stream-reply"`, `"error":"malformed`}, []string{"#", "…"}},
		{policy.Privacy{Keys: "hash", Values: "omit"}, []string{`"values":["#73475cb40a56"]`, `["…",null]`}, []string{"secret", `"42"`, `"142"`, `"data"`, `"c"`}},
		{policy.Privacy{Keys: "omit", Values: "hash"}, []string{`"values":["…"]`, `["#2bb80d537b1d",null]`}, []string{"secret", `"42"`, `"data"`}},
		{policy.Privacy{}, []string{`"values":["#73475cb40a56"]`, `["…",null]`}, []string{"secret"}},
	} {
		text, _ := tap(t, Tap{privacy: c.p}, records)
		for _, want := range c.want {
			if !strings.Contains(text, want) {
				t.Errorf("%+v: %s is not in\n%s", c.p, want, text)
			}
		}
		for _, not := range c.not {
			if strings.Contains(text, not) {
				t.Errorf("%+v: %s is in\n%s", c.p, not, text)
			}
		}
	}
	var out bytes.Buffer
	cursors := Tap{Out: &out, Filter: TapFilter{Tables: []string{"public.t"}}}
	if err := cursors.cursors([]transport.Record{
		{Value: []byte(`{"table":"public.t","bounds":{"Lo":null,"Hi":["7","x"]},"sum":18446744073709551615}`)}, {Value: []byte(`{"table":"public.u"}`)}, {Value: []byte(`{"name":"public.t","cycle":3}`)}, {},
	}); err != nil {
		t.Fatal(err)
	}
	if got := out.String(); strings.Count(got, "\n") != 2 || strings.Contains(got, `"7"`) || !strings.Contains(got, `"Hi":["#`) || !strings.Contains(got, `"Lo":null`) || !strings.Contains(got, "18446744073709551615") || !strings.Contains(got, `"cycle":3`) {
		t.Errorf("cursors:\n%s", got)
	}
}

func TestTapRefuses(t *testing.T) {
	t.Parallel()
	topics := message.Topics{Pipeline: "p"}
	for want, c := range map[string]struct {
		f     TapFilter
		topic string
	}{
		"--kind \"x\"":              {TapFilter{Kinds: []string{"x"}}, topics.Verify()},
		"--limit -1":                {TapFilter{Limit: -1}, topics.Verify()},
		"--range \"5\"":             {TapFilter{Range: "5"}, topics.Verify()},
		"same number":               {TapFilter{Range: "5..6,7"}, topics.Verify()},
		"picked by --table only":    {TapFilter{Key: "1"}, topics.Cursors()},
		"give --topic requests, or": {TapFilter{Consumer: "a"}, topics.Verify()},
	} {
		if _, err := c.f.checked(c.topic, topics); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v", c.f, err)
		}
	}
}

// Who asks for what there is not is told so, not left with an empty output.
func TestTapSaysWhatItCameTo(t *testing.T) {
	t.Parallel()
	p, _, err := policy.Parse("p", []byte("pipeline: p\ntables: [{table: public.*}]\n"))
	if err != nil {
		t.Fatal(err)
	}
	for want, tap := range map[string]Tap{
		"topic p.verify holds no message": {},
		"0 of the 212 messages of p.verify are like that; no entry of the policy matches --table publik.orders": {read: 212, Filter: TapFilter{Tables: []string{"publik.orders", "public.t"}}},
		"0 of the 1 messages of p.verify are like that":                                                         {read: 1, Filter: TapFilter{Tables: []string{"public.t"}}},
		"3 of the 212 messages of p.verify are like that":                                                       {read: 212, printed: 3, Filter: TapFilter{Tables: []string{"publik.orders"}}},
	} {
		if got := tap.sum("p.verify", p); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// What a policy warns of is told by what goes on working by it, not by every look at it.
func TestWarningsOfThePolicyAreToldOnce(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(file, []byte("pipeline: p\ntables: [{table: public.t}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	s := Settings{PolicyFile: file, Log: slog.New(slog.NewTextHandler(&log, nil))}
	if _, err := s.LoadPolicy(); err != nil || log.Len() > 0 {
		t.Errorf("%v: %s", err, &log)
	}
	if _, _, err := s.lookingPolicy(); err != nil || log.Len() > 0 {
		t.Errorf("%v: %s", err, &log)
	}
	if _, err := s.runPolicy(); err != nil || !strings.Contains(log.String(), "nothing is corrected") {
		t.Errorf("%v: %s", err, &log)
	}
}
