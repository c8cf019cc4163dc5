package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/trickle-verify/trickle/internal/app"
	"github.com/trickle-verify/trickle/keeper"
)

// A set that a database differs from is not called damaged, and one that is damaged comes with what to do.
func TestVerifyTellsWhatIsWrong(t *testing.T) {
	t.Parallel()
	for want, v := range map[string]app.VerifiedSet{
		"set s is sound; checked: size": {Sound: true},
		"fault: o: it is missing\nset s is damaged: build another with trickle baseline build --afresh; checked: size": {Faults: []string{"o: it is missing"}, Against: app.AgainstSource},
		"set s is whole, and the replica differs from it, or can't be compared; checked: size":                         {Against: app.AgainstReplica},
	} {
		v.Set, v.Checked = "s", []string{"size"}
		var out bytes.Buffer
		if err := printVerified(&out, v); err != nil || !strings.Contains(out.String(), want) {
			t.Errorf("%v, %q is missing in:\n%s", err, want, out.String())
		}
	}
}

// What has expired does not expire at some later time.
func TestAnExpiredSetHasNoExpiry(t *testing.T) {
	t.Parallel()
	r := &keeper.Report{}
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	r.Set, r.Reason, r.Expires = "s", "the log has expired", &at
	if got := restorePoint(r); strings.Contains(got, "expires ") || !strings.Contains(got, "NONE: set s is not valid: the log has expired") {
		t.Error(got)
	}
	r.Valid = true
	if got := restorePoint(r); !strings.Contains(got, "from 2026-03-01T12:00:00Z on") {
		t.Error(got)
	}
}
