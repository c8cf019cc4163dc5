package app

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/trickle-verify/trickle/baseline"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/message/tricklepb"
	"github.com/trickle-verify/trickle/restore"
	"github.com/trickle-verify/trickle/transport"
)

// searchFor bounds how long the verify topic is searched for what was told of a set.
const searchFor = 30 * time.Second

// ready finds, before anything is written, all that would be in the way later: what the replica holds, rights, members of the sink's group, and that the set is not what
// replicas were told of when it was built.
func (r *restoration) ready(ctx context.Context, m *baseline.Manifest, restorer *restore.Restorer) error {
	if _, err := restorer.Plan(ctx, m); err != nil {
		return err
	}
	if err := r.able(ctx, m); err != nil {
		return err
	}
	return r.compare(ctx, m)
}

// able asks whether what came since can be applied.
func (r *restoration) able(ctx context.Context, m *baseline.Manifest) error {
	from, err := r.start(ctx, m)
	if err != nil {
		return err
	}
	group := r.options.ResetGroup
	if group == "" {
		group = message.Topics{Pipeline: r.policy.Pipeline}.PlayGroup(r.consumer)
	}
	rights := []transport.Right{{Resource: transport.Group, Name: group, Operations: []transport.Operation{transport.Read}, Why: "to bring the replica up to date"}}
	for _, topic := range from.Topics() {
		rights = append(rights, may(topic, "to bring the replica up to date", transport.Read))
	}
	if err := r.kafka.Require(ctx, rights...); err != nil {
		return err
	}
	return r.alone(ctx)
}

// alone makes sure that no sink writes the same rows at the same time: that whose group is to be set, or where this process plays forward, that which the gate goes by.
func (r *restoration) alone(ctx context.Context) error {
	group := cmp.Or(r.options.ResetGroup, r.policy.Gate.Group)
	if group == "" {
		return nil
	}
	members, err := r.kafka.Members(ctx, group)
	if err == nil && len(members) > 0 {
		err = &transport.MembersError{Group: group, Members: members}
	}
	return err
}

// compare makes sure that a set is what replicas were told of.
func (r *restoration) compare(ctx context.Context, m *baseline.Manifest) error {
	told, err := r.travelled(ctx, m)
	if err != nil {
		return err
	}
	r.report.Set = &RestoreSet{Set: m.Set, Travelled: "agrees with what travelled in the data"}
	if told == nil {
		r.report.Set.Travelled = "not known: what travelled in the data of this set is not there"
		r.note("the set can't be compared with what travelled in the data when it was built: that is not in topic %s: it has expired there, or no trickle run has told of this set", message.Topics{Pipeline: r.policy.Pipeline}.Verify())
		return nil
	}
	hash, err := r.store.Hash(ctx, m.Set)
	if err != nil {
		return err
	}
	return differs(m, hash, told)
}

// differs names in what a set is not what was told of it.
func differs(m *baseline.Manifest, hash []byte, told *tricklepb.Baseline) error {
	wrong := func(what string, args ...any) error {
		return fmt.Errorf("set %s is not what replicas were told of when it was built: %s: it was replaced or changed in the store since, so nothing was restored; choose another with --set, or build one (trickle baseline build)",
			m.Set, fmt.Sprintf(what, args...))
	}
	of := map[string]*tricklepb.BaselineTable{}
	for _, t := range told.GetTables() {
		of[t.GetTable()] = t
	}
	for _, t := range m.Tables {
		was := of[t.Table]
		switch {
		case was == nil:
			return wrong("table %s was not in it", t.Table)
		case was.GetRows() != t.Rows:
			return wrong("table %s had %d rows and has %d", t.Table, was.GetRows(), t.Rows)
		case was.GetSum() != t.Sum:
			return wrong("the thumbprint of table %s is another", t.Table)
		case was.GetSchema() != t.Schema.Fingerprint:
			return wrong("table %s has other columns", t.Table)
		}
		delete(of, t.Table)
	}
	for table := range of {
		return wrong("table %s is missing", table)
	}
	if len(told.GetManifest()) > 0 && !bytes.Equal(told.GetManifest(), hash) {
		return wrong("its manifest has another SHA-256")
	}
	return nil
}

// travelled finds what was told of a set; nil: it is not there any more.
func (r *restoration) travelled(ctx context.Context, m *baseline.Manifest) (*tricklepb.Baseline, error) {
	topic := message.Topics{Pipeline: r.policy.Pipeline}.Verify()
	from, err := r.kafka.PositionAt(ctx, []string{topic}, m.Completed.Add(-time.Minute)) // clocks differ
	if err != nil || len(from) == 0 || len(from[0].Offsets) == 0 {
		return nil, err
	}
	log, err := r.kafka.Play(ctx, from)
	if err != nil {
		return nil, err
	}
	bounded, cancel := context.WithTimeout(ctx, searchFor)
	defer cancel()
	told, err := r.search(bounded, log, m)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		err = nil
	}
	return told, errors.Join(err, log.Close())
}

func (r *restoration) search(ctx context.Context, log *transport.Player, m *baseline.Manifest) (*tricklepb.Baseline, error) {
	ends, err := log.Ends(ctx)
	if err != nil {
		return nil, err
	}
	for _, at := range log.Partitions() {
		end, _ := ends.Of(at.Topic)
		for {
			record, ok, err := log.Next(ctx, at, end.Offsets[at.ID])
			if err != nil {
				return nil, err
			}
			if !ok {
				break
			}
			env, err := r.codec().Decode(record.Topic, record.Value)
			if err != nil {
				continue // the detector counts and shows those
			}
			if told := env.GetBaseline(); told.GetSet() == m.Set && env.GetSource() == m.Source {
				return told, nil
			}
		}
	}
	return nil, nil
}
