package policy

import "testing"

func TestPrivacy(t *testing.T) {
	t.Parallel()
	const hash = "#ba7816bf8f01" // of abc, by SHA-256
	for _, c := range []struct {
		privacy    Privacy
		key, value string
	}{
		{Privacy{"show", "show"}, "abc", "abc"},
		{Privacy{"show", "hash"}, "abc", hash},
		{Privacy{"hash", "omit"}, hash, "…"},
		{Privacy{"omit", "show"}, "…", "abc"},
		{Privacy{}, hash, "…"},
		{Privacy{"other", "other"}, "…", "…"}, // which Parse refuses
	} {
		if key, value := c.privacy.Key("abc"), c.privacy.Value("abc"); key != c.key || value != c.value {
			t.Errorf("%+v shows the key %s and the value %s, want %s and %s", c.privacy, key, value, c.key, c.value)
		}
	}
	if p := (Privacy{"hash", "hash"}); p.Value("abc") == p.Value("abd") {
		t.Error("two values have one hash")
	}
}

func TestLinkTo(t *testing.T) {
	t.Parallel()
	const id = "0af7651916cd43dd8448eb211c80319c"
	link := Tracing{Link: "https://jaeger.example/trace/{trace_id}"}
	for _, c := range []struct {
		tracing  Tracing
		id, want string
	}{
		{link, id, "https://jaeger.example/trace/" + id},
		{link, "", ""},
		{link, `"><script>`, ""},
		{Tracing{}, id, ""},
	} {
		if got := c.tracing.LinkTo(c.id); got != c.want {
			t.Errorf("%+v links %q to %q, want %q", c.tracing, c.id, got, c.want)
		}
	}
}
