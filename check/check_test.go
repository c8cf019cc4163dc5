package check_test

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/trickle-verify/trickle/check"
)

func saying(v check.Verdict) func(context.Context) ([]check.Finding, error) {
	return func(context.Context) ([]check.Finding, error) {
		return []check.Finding{{Verdict: v, Detail: "seen"}}, nil
	}
}

func TestWhatNeedsAFailedCheckIsNotChecked(t *testing.T) {
	t.Parallel()
	ran := false
	r := check.Run(t.Context(), []check.Check{
		{Group: "a", Name: "base", Run: func(context.Context) ([]check.Finding, error) {
			return nil, &check.FaultError{Err: errors.New("no\nway"), Fix: "do this"}
		}},
		{Group: "a", Name: "on it", Needs: []string{"a/base"}, Run: func(context.Context) ([]check.Finding, error) { ran = true; return nil, nil }},
		{Group: "b", Name: "on that", Needs: []string{"a/on it"}, Run: saying(check.OK)},
		{Group: "b", Name: "alone", Needs: []string{"c/elsewhere"}, Run: saying(check.OK)},
	}, time.Minute)
	want := check.Report{Counts: check.Counts{OK: 1, Failure: 1, NotChecked: 2}, Checks: []check.Finding{
		{Group: "a", Check: "base", Verdict: check.Failure, Detail: "no way", Fix: "do this"},
		{Group: "a", Check: "on it", Verdict: check.NotChecked, Detail: "a base failed"},
		{Group: "b", Check: "on that", Verdict: check.NotChecked, Detail: "a base failed"},
		{Group: "b", Check: "alone", Verdict: check.OK, Detail: "seen"},
	}}
	got, _ := json.Marshal(r)
	expected, _ := json.Marshal(want)
	if string(got) != string(expected) || ran {
		t.Errorf("got  %s\nwant %s", got, expected)
	}
}

func TestAWarningIsNoFailure(t *testing.T) {
	t.Parallel()
	r := check.Run(t.Context(), []check.Check{
		{Group: "a", Name: "warned", Run: saying(check.Warning)},
		{Group: "a", Name: "on it", Needs: []string{"a/warned"}, Run: saying(check.OK)},
	}, time.Minute)
	if !r.OK || r.Counts != (check.Counts{OK: 1, Warning: 1}) {
		t.Errorf("%+v", r)
	}
}

func TestAHangingCheckEndsAsAFailure(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		r := check.Run(t.Context(), []check.Check{
			{Group: "a", Name: "hangs", Run: func(ctx context.Context) ([]check.Finding, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			}},
			{Group: "a", Name: "another", Run: saying(check.OK)},
		}, 5*time.Second)
		if took := time.Since(began); took != 5*time.Second {
			t.Errorf("it took %s", took)
		}
		if r.OK || r.Counts != (check.Counts{OK: 1, Failure: 1}) || r.Checks[0].Fix == "" {
			t.Errorf("%+v", r)
		}
	})
}

func TestStoppingIsNobodysFailure(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	r := check.Run(ctx, []check.Check{{Group: "a", Name: "stopped", Run: func(ctx context.Context) ([]check.Finding, error) {
		cancel()
		<-ctx.Done()
		return nil, ctx.Err()
	}}}, time.Minute)
	if r.Counts != (check.Counts{NotChecked: 1}) {
		t.Errorf("%+v", r)
	}
}
