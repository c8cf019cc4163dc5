// Package check looks, before anything runs, at all that has to be right for it: connections, versions, rights, keys, what CDC carries, topics, the gate.
//
// It decides nothing for the parts that run later: they look again for themselves. What always holds: nothing is written, on no server; whatever is found
// comes with its object, what was seen, and what mends it, where that is a statement or a command in the very words to be run; what could not be looked at
// says so, with the reason, and never counts as ok. A check that fails keeps those that need it from running, and no other; each has its own time, so one
// that hangs ends as a failure and the rest of the report stands.
package check

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/trickle-verify/trickle/policy"
)

// Verdict is what a finding comes to.
type Verdict string

// Verdicts, from good to bad; NotChecked is none of them.
const (
	OK         Verdict = "ok"
	Warning    Verdict = "warning" // it works, and somebody should know
	Failure    Verdict = "failure" // something will not work
	NotChecked Verdict = "not checked"
)

// Finding is one line of a report.
type Finding struct {
	Group   string  `json:"group"`
	Check   string  `json:"check"`
	Object  string  `json:"object,omitempty"` // the table, topic, slot or group; empty where the check has but one
	Verdict Verdict `json:"verdict"`
	Detail  string  `json:"detail"`        // what was seen
	Fix     string  `json:"fix,omitempty"` // what mends it: SQL, a command, or what to change
}

// Report is what all checks found, in the order of the checks.
type Report struct {
	OK     bool      `json:"ok"` // no failure was found
	Checks []Finding `json:"checks"`
	Counts Counts    `json:"counts"`
}

// Counts are the findings by verdict.
type Counts struct {
	OK         int `json:"ok"`
	Warning    int `json:"warning"`
	Failure    int `json:"failure"`
	NotChecked int `json:"not_checked"`
}

// Check is one thing to look at.
type Check struct {
	Group, Name string
	// Needs are the checks, "group/name", without which this one can't run. They stand before it.
	Needs []string
	// Run finds. Its error is a failure that keeps those that need this check from running; a *FaultError names its fix.
	Run func(ctx context.Context) ([]Finding, error)
}

// ID is what Needs names it by.
func (c Check) ID() string { return c.Group + "/" + c.Name }

// FaultError is a failure that stands in the way of other checks.
type FaultError struct {
	Err error
	Fix string
}

func (f *FaultError) Error() string { return f.Err.Error() }

func (f *FaultError) Unwrap() error { return f.Err }

// unconnected is a failure to connect. Errors of connecting end with the next step, behind a semicolon; otherwise is that of the others.
func unconnected(err error, otherwise string) error {
	text := oneLine(err.Error())
	if i := strings.LastIndex(text, "; "); i >= 0 {
		return &FaultError{Err: errors.New(text[:i]), Fix: text[i+len("; "):]}
	}
	return &FaultError{Err: err, Fix: otherwise}
}

// absentError says why there is nothing to look at, which is nobody's failure: a part that this run was not told about.
type absentError struct{ reason, fix string }

func (e *absentError) Error() string { return e.reason }

// within is how many checks run at once; those of tables have connections of their own.
const within = 4

// Run runs the checks, each within the timeout, as many at once as what they need allows. It returns when all have ended.
func Run(ctx context.Context, checks []Check, timeout time.Duration) Report {
	outcomes := make(map[string]*outcome, len(checks))
	for _, c := range checks {
		outcomes[c.ID()] = &outcome{done: make(chan struct{})}
	}
	slots := make(chan struct{}, within)
	var wg sync.WaitGroup
	for _, c := range checks {
		own := outcomes[c.ID()]
		wg.Go(func() {
			defer close(own.done)
			for _, need := range c.Needs {
				needed, ok := outcomes[need]
				if !ok {
					continue // that one is not part of this run
				}
				<-needed.done // it stands before this one, so no circle
				if needed.blocked != "" {
					own.skip(c, needed.blocked)
					return
				}
			}
			slots <- struct{}{}
			defer func() { <-slots }()
			own.run(ctx, c, timeout)
		})
	}
	wg.Wait()
	var r Report
	for _, c := range checks {
		r.Checks = append(r.Checks, outcomes[c.ID()].findings...)
	}
	r.count()
	return r
}

// outcome is what a check came to.
type outcome struct {
	done     chan struct{} // closed when the rest is final
	findings []Finding
	blocked  string // why nothing that needs it can run
}

func (o *outcome) run(ctx context.Context, c Check, timeout time.Duration) {
	bounded, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	found, err := c.Run(bounded)
	for _, f := range found {
		f.Group, f.Check = c.Group, c.Name
		o.findings = append(o.findings, f)
	}
	if err == nil {
		return
	}
	f := Finding{Group: c.Group, Check: c.Name, Verdict: Failure, Detail: oneLine(err.Error())}
	o.blocked = c.Group + " " + c.Name + " failed"
	var fault *FaultError
	var absent *absentError
	switch {
	case ctx.Err() != nil:
		f.Verdict, f.Detail = NotChecked, "stopped before it ended"
	case errors.As(err, &absent):
		f.Verdict, f.Fix = NotChecked, absent.fix
		o.blocked = absent.reason
	case errors.As(err, &fault):
		f.Fix = fault.Fix
	case bounded.Err() != nil:
		f.Detail = fmt.Sprintf("gave no answer within %s: %s", timeout, f.Detail)
		f.Fix = "see what it waits for (a lock, an overloaded server), or give it longer with --timeout"
	}
	o.findings = append(o.findings, f)
}

func (o *outcome) skip(c Check, reason string) {
	o.blocked = reason
	o.findings = []Finding{{Group: c.Group, Check: c.Name, Verdict: NotChecked, Detail: reason}}
}

func (r *Report) count() {
	for _, f := range r.Checks {
		switch f.Verdict {
		case OK:
			r.Counts.OK++
		case Warning:
			r.Counts.Warning++
		case Failure:
			r.Counts.Failure++
		default:
			r.Counts.NotChecked++
		}
	}
	r.OK = r.Counts.Failure == 0
}

// oneLine keeps a server's message from breaking a report's lines.
func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// Policy is the check of the policy file, which was read already: what is odd about it.
func Policy(p *policy.Policy, warnings []policy.Warning) Check {
	return Check{Group: "policy", Name: "file", Run: func(context.Context) ([]Finding, error) {
		found := []Finding{ok("pipeline %s", p.Pipeline)}
		for _, w := range warnings {
			if w.Path != "gate" { // the gate has a check of its own
				found = append(found, warn("see "+w.Path+" in docs/reference-policy.yaml", "line %d: %s", w.Line, w.Message).of(w.Path))
			}
		}
		return found, nil
	}}
}

func ok(detail string, args ...any) Finding {
	return Finding{Verdict: OK, Detail: fmt.Sprintf(detail, args...)}
}

func warn(fix, detail string, args ...any) Finding {
	return Finding{Verdict: Warning, Detail: fmt.Sprintf(detail, args...), Fix: fix}
}

func fail(fix, detail string, args ...any) Finding {
	return Finding{Verdict: Failure, Detail: fmt.Sprintf(detail, args...), Fix: fix}
}

func unknown(fix, detail string, args ...any) Finding {
	return Finding{Verdict: NotChecked, Detail: fmt.Sprintf(detail, args...), Fix: fix}
}

// of names what a finding is about.
func (f Finding) of(object string) Finding {
	f.Object = object
	return f
}
