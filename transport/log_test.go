package transport_test

import (
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/trickle-verify/trickle/transport"
)

func TestMatchTopic(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		pattern, topic string
		want           bool
	}{
		{"a.b", "a.b", true},
		{"a.b", "a.bc", false},
		{"a.b", "axb", false},
		{"a.*", "a.", true},
		{"a.*", "a.public.orders", true},
		{"a.*", "b.a.x", false},
		{"*", "", true},
		{"*.orders", "a.public.orders", true},
		{"*.orders", "a.orders.x", false},
		{"a*b*c", "abbc", true},
		{"a*b*c", "acb", false},
		{"ab*ba", "aba", false},
		{"", "a", false},
	} {
		if got := transport.MatchTopic(c.pattern, c.topic); got != c.want {
			t.Errorf("%q, %q: %t", c.pattern, c.topic, got)
		}
	}
}

// A name in which runs were put out for a star matches.
func TestMatchTopicOfItsOwn(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var pattern, name strings.Builder
		for _, piece := range rapid.SliceOf(rapid.StringMatching(`[ab.]{0,3}`)).Draw(t, "pieces") {
			name.WriteString(piece)
			if rapid.Bool().Draw(t, "starred") {
				piece = "*"
			}
			pattern.WriteString(piece)
		}
		if !transport.MatchTopic(pattern.String(), name.String()) {
			t.Fatalf("%q does not match %q", pattern.String(), name.String())
		}
	})
}

func TestHeld(t *testing.T) {
	t.Parallel()
	reaching := func(id string, extents ...transport.Extent) transport.Log {
		return transport.Log{Topic: "a", ID: id, Partitions: extents}
	}
	for name, c := range map[string]struct {
		at   transport.TopicPosition
		log  transport.Log
		want string // part of the error; none where it is held
	}{
		"between":                       {transport.TopicPosition{ID: "1", Offsets: []int64{5}}, reaching("1", transport.Extent{Start: 5, End: 9}), ""},
		"at the end":                    {transport.TopicPosition{ID: "1", Offsets: []int64{9}}, reaching("1", transport.Extent{Start: 9, End: 9}), ""},
		"no id is known":                {transport.TopicPosition{Offsets: []int64{9}}, reaching("1", transport.Extent{Start: 9, End: 9}), ""},
		"a partition came":              {transport.TopicPosition{ID: "1", Offsets: []int64{9}}, reaching("1", transport.Extent{Start: 9, End: 9}, transport.Extent{End: 4}), ""},
		"a partition came, and expired": {transport.TopicPosition{ID: "1", Offsets: []int64{9}}, reaching("1", transport.Extent{Start: 9, End: 9}, transport.Extent{Start: 1, End: 4}), "a[1] can't be read on from offset 0: what was there has expired, the oldest that is left is 1"},
		"the topic came":                {transport.TopicPosition{}, reaching("1", transport.Extent{End: 4}), ""},
		"the topic came, and expired":   {transport.TopicPosition{}, reaching("1", transport.Extent{Start: 4, End: 4}), "oldest that is left is 4"},
		"it never came":                 {transport.TopicPosition{}, reaching(""), ""},
		"expired":                       {transport.TopicPosition{ID: "1", Offsets: []int64{5}}, reaching("1", transport.Extent{Start: 6, End: 9}), "oldest that is left is 6"},
		"beyond the end":                {transport.TopicPosition{ID: "1", Offsets: []int64{5}}, reaching("1", transport.Extent{End: 4}), "ends before that, at 4"},
		"made again":                    {transport.TopicPosition{ID: "1", Offsets: []int64{5}}, reaching("2", transport.Extent{End: 9}), "deleted and made again"},
		"deleted":                       {transport.TopicPosition{ID: "1", Offsets: []int64{5}}, reaching(""), "does not exist any more"},
		"fewer partitions":              {transport.TopicPosition{Offsets: []int64{5, 5}}, reaching("2", transport.Extent{End: 9}), "1 partitions, and had 2"},
		"nothing committed":             {transport.TopicPosition{Offsets: []int64{-1}}, reaching("2", transport.Extent{End: 9}), "no offset is known"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.at.Topic = "a"
			err := transport.Position{c.at}.Held([]transport.Log{{Topic: "b"}, c.log})
			if c.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if !errors.Is(err, transport.ErrLost) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}
