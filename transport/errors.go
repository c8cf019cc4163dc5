package transport

import (
	"errors"
	"fmt"
)

// ErrNoTopic is wrapped by a Bus's errors about a topic that does not exist.
var ErrNoTopic = errors.New("topic does not exist")

// ErrTooLarge is wrapped by Send's error for a value that can't travel.
var ErrTooLarge = errors.New("message is too large")

func noTopic(topic string) error {
	return fmt.Errorf("%w: %s; whoever sends to it creates it when it starts, unless its rights forbid that", ErrNoTopic, topic)
}

func noPartition(topic string, id int32, has int) error {
	return fmt.Errorf("topic %s has %d partitions, and so none of number %d", topic, has, id)
}
