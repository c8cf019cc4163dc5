package message_test

import (
	"strings"
	"testing"

	"github.com/trickle-verify/trickle/message"
)

func TestTopicsAreNamedAfterThePipeline(t *testing.T) {
	t.Parallel()
	topics := message.Topics{Pipeline: "shop"}
	for got, want := range map[string]string{
		topics.Verify():                "shop.verify",
		topics.Requests():              "shop.requests",
		topics.Cursors():               "shop.cursors",
		topics.Replies("cache"):        "shop.replies.cache",
		topics.PublisherGroup():        "shop.publisher",
		topics.CursorGroup():           "shop.cursors",
		topics.DetectorGroup("cache"):  "shop.detector.cache",
		topics.DetectorGroup("search"): "shop.detector.search",
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestCheckName(t *testing.T) {
	t.Parallel()
	for name, good := range map[string]bool{
		"cache": true, "cache-2.eu_west": true, "_x": true, strings.Repeat("a", 100): true,
		"": false, ".": false, "..": false, ".x": false, "a b": false, "a/b": false, "ü": false, "a\n": false, strings.Repeat("a", 101): false,
	} {
		err := message.CheckName("consumer", name)
		if (err == nil) != good {
			t.Errorf("%q: got %v, want accepted: %v", name, err, good)
		}
	}
}
