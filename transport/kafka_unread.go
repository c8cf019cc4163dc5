package transport

import (
	"context"
	"errors"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
)

// Unread counts the records of a topic that another program's group has yet to read, by what it has committed. known is false where that can't be told: it has
// committed nothing there, or this login may not see it (DESCRIBE on the group).
func (k *Kafka) Unread(ctx context.Context, group, topic string) (records int64, known bool, err error) {
	starts, ends, err := k.bounds(ctx, topic)
	if err != nil {
		return 0, false, err
	}
	var committed kadm.OffsetResponses
	err = k.patient(ctx, func() (err error) {
		committed, err = k.admin.FetchOffsets(ctx, group)
		return err
	})
	if err != nil {
		if errors.Is(err, kerr.GroupAuthorizationFailed) || errors.Is(err, kerr.GroupIDNotFound) {
			err = nil
		}
		return 0, false, err
	}
	for id, end := range ends {
		at, ok := committed.Lookup(topic, id)
		if !ok || at.At < 0 { // nothing is committed, or the answer has an error in its place
			return 0, false, nil
		}
		records += max(0, end-max(at.At, starts[id]))
	}
	return records, len(ends) > 0, nil
}
