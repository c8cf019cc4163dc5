package app

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/trickle-verify/trickle/baseline"
	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/export"
	"github.com/trickle-verify/trickle/keeper"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/message/tricklepb"
	"github.com/trickle-verify/trickle/policy"
	"github.com/trickle-verify/trickle/postgres"
	"github.com/trickle-verify/trickle/scheduler"
	"github.com/trickle-verify/trickle/transport"
)

// view is a store as the keeper wants it.
type view struct{ *baseline.Store }

// Newest names the newest complete set.
func (v view) Newest(ctx context.Context) (string, error) {
	sets, err := v.Sets(ctx)
	if i := slices.IndexFunc(sets, func(l baseline.Listed) bool { return !l.Partial }); err == nil && i >= 0 {
		return sets[i].Set, nil
	}
	return "", err
}

// Prune leaves the newest sets.
func (v view) Prune(ctx context.Context, keep int) error {
	_, err := v.Store.Prune(ctx, baseline.Retention{Keep: keep, Now: time.Now()})
	return err
}

// desk is a scheduler as the keeper wants it.
type desk struct{ *scheduler.Scheduler }

// Beside begins work beside the scan.
func (d desk) Beside() keeper.Pace { return d.Scheduler.Beside() }

// announcement tells replicas of a set.
func announcement(pipeline string, m *baseline.Manifest, codec baseline.Codec) (*tricklepb.Envelope, error) {
	from, err := m.Start()
	if err != nil {
		return nil, err
	}
	stored, err := codec.Encode(m)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(stored)
	b := &tricklepb.Baseline{Set: m.Set, Manifest: sum[:], Taken: timestamppb.New(from.Taken)}
	for _, at := range from.Position {
		b.Position = append(b.Position, &tricklepb.TopicPosition{Topic: at.Topic, Id: at.ID, Offsets: at.Offsets})
	}
	for _, t := range m.Tables {
		b.Tables = append(b.Tables, &tricklepb.BaselineTable{
			Table: t.Table, Schema: t.Schema.Fingerprint, Rows: t.Rows, Sum: t.Sum, Digest: tricklepb.DigestKind(t.Digest), Probe: t.Schema.Probe,
		})
	}
	return &tricklepb.Envelope{Pipeline: pipeline, Source: m.Source, Timeline: m.Timeline, Id: uuid.NewString(), Body: &tricklepb.Envelope_Baseline{Baseline: b}}, nil
}

// announce sends it to every replica, signed as all messages are.
func (s Settings) announce(ctx context.Context, bus transport.Bus, pipeline string, m *baseline.Manifest) error {
	env, err := announcement(pipeline, m, baseline.Codec{Secret: []byte(s.SigningKey)})
	if err != nil {
		return err
	}
	topic := message.Topics{Pipeline: pipeline}.Verify()
	value, err := s.codec().Encode(topic, env)
	if err != nil {
		return err
	}
	if err := bus.Send(ctx, transport.Record{Topic: topic, Key: []byte("baseline"), Value: value}); err != nil {
		return fmt.Errorf("telling replicas of set %s: %w", m.Set, err)
	}
	return nil
}

// pace is the keeper's, as a build wants it.
type pace struct{ keeper.Pace }

// Spent tells what reading a range took.
func (p pace) Spent(c export.Cost) { p.Pace.Spent(scheduler.Cost(c)) }

// keeping makes the keeper of a publisher's base-line view, for a bus that has logs.
func (p *publisher) keeping(bus transport.Bus, logs logReader) *keeper.Keeper {
	s := p.settings
	return keeper.New(p.policy, keeper.Parts{
		Desk: desk{p.scheduler}, Source: p.identity.String(), Log: s.Log,
		Open: func(ctx context.Context, policy *policy.Policy) (keeper.Store, error) {
			store, err := baseline.Open(ctx, toBuild(s.view(policy)))
			return view{store}, err
		},
		Logs: func(ctx context.Context, policy *policy.Policy, of *baseline.Manifest) ([]transport.Log, error) {
			topics, err := p.cdcTopics(ctx, policy)
			if err != nil {
				return nil, err
			}
			return logs.Logs(ctx, append(topics, of.Topics()...))
		},
		Build: func(ctx context.Context, j keeper.Job) (*baseline.Manifest, error) { return p.build(ctx, j, logs) },
		Announce: func(ctx context.Context, m *baseline.Manifest) error {
			return s.announce(ctx, bus, p.policy.Pipeline, m)
		},
	})
}

func (p *publisher) cdcTopics(ctx context.Context, policy *policy.Policy) ([]string, error) {
	var tables []postgres.Name
	if len(policy.Baseline.Topics) == 0 {
		var err error
		if tables, err = p.source.Tables(ctx); err != nil {
			return nil, err
		}
	}
	return cdcTopics(policy, tables)
}

// build builds one set.
func (p *publisher) build(ctx context.Context, j keeper.Job, logs logReader) (*baseline.Manifest, error) {
	store, ok := j.Store.(view)
	if !ok {
		return nil, errors.New("the base-line view is in no store of ours")
	}
	built, err := p.settings.buildSet(ctx, setJob{
		policy: j.Policy, source: p.source, identity: p.identity, logs: logs.Logs, store: store.Store, pace: pace{j.Pace},
		digest: func(table string) digest.Kind {
			if p.scanner.Kind(table) == digest.Portable {
				return digest.Portable
			}
			return 0
		},
		report: func(n export.Progress) {
			j.Report(keeper.Progress{Set: n.Set, Tables: n.Tables, Done: n.Done, Rows: n.Rows, Total: n.Total, Bytes: n.Bytes})
		},
	})
	return built.Manifest, err
}
