package transport

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
)

// Member is one of a consumer group.
type Member struct {
	ClientID string
	Host     string
}

func (m Member) String() string { return m.ClientID + " at " + strings.TrimPrefix(m.Host, "/") }

// MembersError is that a group has members, whose offsets are theirs alone to set.
type MembersError struct {
	Group   string
	Members []Member // none where they came and went
}

func (e *MembersError) Error() string {
	who := make([]string, len(e.Members))
	for i, m := range e.Members {
		who[i] = m.String()
	}
	if len(who) == 0 {
		who = []string{"one that has come just now"}
	}
	return fmt.Sprintf("consumer group %s has members, so its offsets can't be set: %s; stop them (pausing a sink connector leaves its tasks in the group: stop it), then do this again",
		e.Group, strings.Join(who, ", "))
}

// Committed is what a group has committed in topics, -1 in a partition where it has committed nothing. The topics' ids are left out: a commit does not say which topic of a name it is of.
func (k *Kafka) Committed(ctx context.Context, group string, topics []string) (Position, error) {
	logs, err := k.Logs(ctx, topics)
	if err != nil {
		return nil, err
	}
	commits, err := k.commits(ctx, group)
	if err != nil {
		return nil, err
	}
	out := Ends(logs)
	for i := range out {
		out[i].ID = ""
		for n := range out[i].Offsets {
			out[i].Offsets[n] = -1
			if c, ok := commits.Lookup(out[i].Topic, int32(n)); ok {
				out[i].Offsets[n] = c.At
			}
		}
	}
	return out, nil
}

func (k *Kafka) commits(ctx context.Context, group string) (kadm.OffsetResponses, error) {
	var commits kadm.OffsetResponses
	err := k.patient(ctx, func() (err error) {
		if commits, err = k.admin.FetchOffsets(ctx, group); err == nil {
			err = commits.Error()
		}
		return err
	})
	if errors.Is(err, kerr.GroupIDNotFound) {
		return nil, nil
	}
	return commits, k.explainCommit(err, group, Describe)
}

// ResetGroup sets a group's offsets to a position, in every partition of its topics: one that did not exist there, to its beginning. The group must have no members; a member
// that comes in between makes Kafka refuse, so that it reads either from the position or from where it was, and the error tells. Offsets of other topics are left as they are.
func (k *Kafka) ResetGroup(ctx context.Context, group string, to Position) error {
	members, err := k.members(ctx, group, Read)
	switch {
	case err != nil:
		return err
	case len(members) > 0:
		return &MembersError{group, members}
	}
	logs, err := k.Logs(ctx, to.Topics())
	if err != nil {
		return err
	}
	if err := to.Held(logs); err != nil {
		return err
	}
	want := Ends(logs)
	for i := range want {
		at, _ := to.Of(want[i].Topic)
		for n := range want[i].Offsets {
			want[i].Offsets[n] = at.offset(n)
		}
	}
	if err := k.CommitFor(ctx, group, want); err != nil {
		return err
	}
	return k.verify(ctx, group, want)
}

// verify reads the offsets back. A member that came afterwards has begun there, and may be further.
func (k *Kafka) verify(ctx context.Context, group string, want Position) error {
	commits, err := k.commits(ctx, group)
	if err != nil {
		return err
	}
	members, err := k.Members(ctx, group)
	if err != nil {
		return err
	}
	for _, t := range want {
		for n, offset := range t.Offsets {
			c, ok := commits.Lookup(t.Topic, int32(n))
			if !ok || c.At < offset || c.At > offset && len(members) == 0 {
				return fmt.Errorf("consumer group %s: the offset of %s was set to %d and is %d now: somebody else commits to this group; stop that, then do this again",
					group, Partition{t.Topic, int32(n)}, offset, c.At)
			}
		}
	}
	return nil
}

// CommitFor sets a group's offsets, for who reads without being its member. While the group has members that is a *MembersError.
func (k *Kafka) CommitFor(ctx context.Context, group string, at Position) error {
	var offsets kadm.Offsets
	for _, t := range at {
		for n, offset := range t.Offsets {
			offsets.Add(kadm.Offset{Topic: t.Topic, Partition: int32(n), At: offset, LeaderEpoch: -1})
		}
	}
	if len(offsets) == 0 {
		return nil
	}
	err := k.patient(ctx, func() error {
		answers, err := k.admin.CommitOffsets(ctx, group, offsets)
		if err != nil {
			return err
		}
		return k.refusal(answers)
	})
	if memberOnly(err) {
		members, _ := k.Members(ctx, group) // who they are is worth a try
		return &MembersError{group, members}
	}
	return k.explainCommit(err, group, Read)
}

// refusal is why one of the offsets was not committed.
func (k *Kafka) refusal(answers kadm.OffsetResponses) (err error) {
	answers.Each(func(o kadm.OffsetResponse) {
		if err == nil && o.Err != nil {
			err = o.Err
			if errors.Is(err, kerr.TopicAuthorizationFailed) || errors.Is(err, kerr.UnknownTopicOrPartition) || errors.Is(err, kerr.UnknownTopicID) {
				err = k.explain(err, o.Topic, Read)
			}
		}
	})
	return err
}

// memberOnly tells how Kafka refuses the commit of who is not a member, by the kind of group.
func memberOnly(err error) bool {
	for _, refused := range []error{kerr.UnknownMemberID, kerr.IllegalGeneration, kerr.RebalanceInProgress, kerr.StaleMemberEpoch, kerr.FencedMemberEpoch} {
		if errors.Is(err, refused) {
			return true
		}
	}
	return false
}

// Members returns who is in a group now; nobody where there is no such group.
func (k *Kafka) Members(ctx context.Context, group string) ([]Member, error) {
	return k.members(ctx, group, Describe)
}

// members asks for them, on the way to something that takes another right.
func (k *Kafka) members(ctx context.Context, group string, tried Operation) ([]Member, error) {
	var members []Member
	err := k.patient(ctx, func() error {
		groups, err := k.admin.DescribeGroups(ctx, group)
		g := groups[group]
		switch {
		case err != nil:
			return err
		case g.Err != nil && !errors.Is(g.Err, kerr.GroupIDNotFound):
			return g.Err
		}
		members = nil
		for _, m := range g.Members {
			members = append(members, Member{m.ClientID, m.ClientHost})
		}
		if len(members) == 0 {
			members, err = k.membersOfNew(ctx, group)
		}
		return err
	})
	return members, k.explainCommit(err, group, tried)
}

// membersOfNew does so for a group of the newer protocol. Clusters that do not speak it have none.
func (k *Kafka) membersOfNew(ctx context.Context, group string) ([]Member, error) {
	groups, err := k.admin.DescribeConsumerGroups(ctx, group)
	g := groups[group]
	switch {
	case errors.Is(g.Err, kerr.GroupIDNotFound), errors.Is(g.Err, kerr.UnsupportedVersion), errors.Is(err, kerr.UnsupportedVersion):
		return nil, nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case err != nil && len(groups) == 0:
		return nil, nil // the client says in its own words that no broker speaks it
	}
	var members []Member
	for _, m := range g.Members {
		members = append(members, Member{m.ClientID, m.ClientHost})
	}
	return members, g.Err
}

// explainCommit says which right is missing.
func (k *Kafka) explainCommit(err error, group string, tried Operation) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, kerr.GroupAuthorizationFailed):
		return k.denied(kerr.GroupAuthorizationFailed, Right{Resource: Group, Name: group, Operations: []Operation{tried}})
	default:
		return fmt.Errorf("consumer group %s: %w", group, err)
	}
}
