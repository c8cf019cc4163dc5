package page

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/trickle-verify/trickle/ledger"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type told struct {
	Trouble string            `json:"trouble"`
	Order   []string          `json:"order"`
	Changed map[string]string `json:"changed"`
}

// listener reads a stream until it is closed.
type listener struct {
	t    *testing.T
	body io.ReadCloser
	scan *bufio.Scanner
}

func listen(t *testing.T, url string) *listener {
	t.Helper()
	response, err := http.Get(url + "/events")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = response.Body.Close() })
	if response.StatusCode != http.StatusOK {
		t.Fatalf("status %d", response.StatusCode)
	}
	scan := bufio.NewScanner(response.Body)
	scan.Buffer(nil, 4<<20)
	return &listener{t, response.Body, scan}
}

// next is the next thing that is told; ok is false at the end of the stream.
func (l *listener) next() (n told, ok bool) {
	l.t.Helper()
	for l.scan.Scan() {
		if data, is := strings.CutPrefix(l.scan.Text(), "data: "); is {
			if err := json.Unmarshal([]byte(data), &n); err != nil {
				l.t.Fatal(err)
			}
			return n, true
		}
	}
	return n, false
}

func TestOneLookForAll(t *testing.T) {
	t.Parallel()
	st := newStage(quiet(t))
	url, stop := st.serve(t, "127.0.0.1:0")
	begun := time.Now()
	all := make([]*listener, 30)
	for i := range all {
		all[i] = listen(t, url)
	}
	for range 3 {
		for i, l := range all {
			n, ok := l.next()
			if !ok || len(n.Order) != 9 {
				t.Fatalf("watcher %d is told %+v, %v", i, n, ok)
			}
		}
	}
	if n, most := st.reads.Load(), int64(time.Since(begun)/every)+2; n > most {
		t.Errorf("the state was read %d times in %s for 30 watchers", n, time.Since(begun))
	}
	for _, l := range all {
		_ = l.body.Close()
	}
	last := listen(t, url)
	if n, ok := last.next(); !ok || len(n.Changed) != 9 {
		t.Errorf("who comes later is told %d parts, %v", len(n.Changed), ok)
	}
	ended := time.Now()
	stop()
	if took := time.Since(ended); took > time.Second {
		t.Errorf("an open stream kept the server for %s", took)
	}
	for {
		if _, ok := last.next(); !ok {
			break
		}
	}
}

func TestNoLookForNobody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		st := newStage(quiet(t))
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { st.hub.Run(ctx); close(done) }()
		looks := func() int64 { synctest.Wait(); return st.reads.Load() }
		time.Sleep(time.Hour)
		if n := looks(); n != 0 {
			t.Errorf("the state was read %d times before anybody watched", n)
		}
		w, err := st.hub.join()
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			for range w.news {
			}
		}()
		time.Sleep(10*time.Second + time.Millisecond)
		if n := looks(); n < 10 || n > 11 {
			t.Errorf("the state was read %d times in ten seconds", n)
		}
		st.hub.leave(w)
		was := looks()
		time.Sleep(time.Hour)
		if n := looks(); n > was {
			t.Errorf("the state was read %d times more while nobody watched", n-was)
		}
		if _, err := st.hub.join(); err != nil {
			t.Fatal(err)
		}
		if n := looks(); n != was+1 {
			t.Errorf("who comes later waits: %d looks more", n-was)
		}
		stop()
		<-done
	})
}

func TestOnlyWhatChangesIsTold(t *testing.T) {
	t.Parallel()
	s := quiet(t)
	st := newStage(s)
	url, _ := st.serve(t, "127.0.0.1:0")
	a, b := listen(t, url), listen(t, url)
	for _, l := range []*listener{a, b} {
		if first, _ := l.next(); len(first.Changed) != 9 {
			t.Fatalf("the first time %d parts are told", len(first.Changed))
		}
	}
	view := *s.Replica
	view.Gate = ledger.GateReport{Reason: "lag"}
	s.Replica = &view
	st.set(s)
	for _, l := range []*listener{a, b} {
		for {
			n, ok := l.next()
			if !ok {
				t.Fatal("the stream ended")
			}
			if _, ok := n.Changed["gate"]; !ok {
				continue // told before, or all of what this one was told first
			}
			if _, ok := n.Changed["corrections"]; ok && len(n.Changed) < 9 {
				t.Errorf("what did not change is told: %d parts", len(n.Changed))
			}
			if !strings.Contains(n.Changed["gate"], "closed") {
				continue
			}
			break
		}
	}
	st.fail("away")
	for {
		n, ok := a.next()
		if !ok {
			t.Fatal("the stream ended")
		}
		if n.Trouble == "away" {
			if len(n.Changed) > 0 || len(n.Order) != 9 {
				t.Errorf("with trouble it is told %+v", n)
			}
			break
		}
	}
}

// Who reads nothing is dropped once it is far behind; others do not notice.
func TestSlowWatchersAreDropped(t *testing.T) {
	t.Parallel()
	st := newStage(quiet(t))
	slow, err := st.hub.join()
	if err != nil {
		t.Fatal(err)
	}
	fast, err := st.hub.join()
	if err != nil {
		t.Fatal(err)
	}
	for range behind + 1 {
		st.hub.runOnce(t.Context())
		<-fast.news
	}
	if n := st.hub.watching(); n != 1 {
		t.Errorf("%d watch", n)
	}
	for range behind {
		if _, ok := <-slow.news; !ok {
			t.Fatal("what it was told before is lost")
		}
	}
	if _, ok := <-slow.news; ok {
		t.Error("it is told more")
	}
	st.hub.leave(slow) // as its request does at its end
	for range most - 1 {
		if _, err := st.hub.join(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := st.hub.join(); err != errCrowded { //nolint:errorlint // it is returned as it is
		t.Errorf("one too many: %v", err)
	}
	st.hub.end()
	if _, ok := <-fast.news; ok {
		t.Error("it goes on after the end")
	}
	if _, err := st.hub.join(); err != errEnded { //nolint:errorlint // it is returned as it is
		t.Errorf("after the end: %v", err)
	}
}

// A state that takes long is read rarely: for at most a tenth of the time.
func TestLongLooksRest(t *testing.T) {
	t.Parallel()
	for took, want := range map[time.Duration]time.Duration{0: time.Second, 50 * time.Millisecond: time.Second, time.Second: 9 * time.Second} {
		if got := (look{took: took}).rest(); got != want {
			t.Errorf("after %s it rests for %s, want %s", took, got, want)
		}
	}
}

func get(t *testing.T, url string) (int, http.Header, string) {
	t.Helper()
	response, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, response.Header, string(text)
}

func TestWhatIsServed(t *testing.T) {
	t.Parallel()
	st := newStage(trouble(t))
	url, _ := st.serve(t, "127.0.0.1:0")
	code, header, text := get(t, url+"/")
	policy := header.Get("Content-Security-Policy")
	if code != 200 || !strings.Contains(policy, "default-src 'none'") || strings.Contains(policy, "unsafe") || strings.Contains(policy, "http") || header.Get("Cache-Control") != "no-store" {
		t.Errorf("status %d, header %v", code, header)
	}
	if outside := strings.ReplaceAll(text, "https://traces.example/trace/4bf92f3577b34da6a3ce929d0e0e4736", ""); strings.Contains(outside, "http://") || strings.Contains(outside, "https://") {
		t.Error("the page names something outside of itself")
	}
	if strings.Contains(text, "<script>") || strings.Contains(text, "NaN") || strings.Contains(text, "ZgotmplZ") {
		t.Error("the page holds what it should not")
	}
	for _, name := range []string{"page.css", "page.js", "drop.svg"} {
		code, header, body := get(t, url+"/assets/"+st.hub.version+"/"+name)
		if code != 200 || !strings.Contains(header.Get("Cache-Control"), "immutable") || len(body) == 0 || strings.Contains(strings.ReplaceAll(body, "http://www.w3.org/2000/svg", ""), "://") {
			t.Errorf("%s: status %d, %v", name, code, header)
		}
	}
	for _, path := range []string{"/assets/x/page.html", "/assets/x/nothing.css", "/assets/x/..%2fpage.go", "/else"} {
		if code, _, _ := get(t, url+path); code != 404 {
			t.Errorf("%s: status %d", path, code)
		}
	}
	st.fail("the database is away")
	code = 200
	for deadline := time.Now().Add(10 * time.Second); code == 200 && time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		code, _, text = get(t, url+"/")
	}
	if code != 503 || !strings.Contains(text, "<body data-stale") || !strings.Contains(text, "the database is away") || !strings.Contains(text, "public.orders") {
		t.Errorf("with trouble: status %d", code)
	}
}

// Keys and values look as privacy says, and nothing of them is anywhere else.
func TestPrivacy(t *testing.T) {
	t.Parallel()
	for privacy, c := range map[string]struct{ seen, unseen []string }{
		"":                                    {[]string{"#", "amount"}, []string{"k7710", "1.00", "paid", "60000", "secret"}},
		"privacy: {keys: omit}":               {[]string{"…", "amount"}, []string{"k7710", "1.00", "#4a44dc"}},
		"privacy: {keys: show}":               {[]string{"k7710", "60000", "amount"}, []string{"1.00", "paid"}},
		"privacy: {keys: omit, values: show}": {[]string{"1.00", "paid"}, []string{"k7710"}},
		"privacy: {keys: omit, values: hash}": {[]string{"#cf9dcf6da8a8"}, []string{"1.00", "paid"}},
	} {
		s := trouble(t)
		s.Policy = rules(t, privacy)
		all, err := sections(s)
		if err != nil {
			t.Fatal(err)
		}
		text := fmt.Sprint(all)
		for _, want := range c.seen {
			if !strings.Contains(text, want) {
				t.Errorf("%s: lacks %q", privacy, want)
			}
		}
		for _, not := range c.unseen {
			if strings.Contains(text, not) {
				t.Errorf("%s: shows %q", privacy, not)
			}
		}
	}
}

// However many tables there are and however large they are, what is sent is bounded.
func TestThePageIsSmall(t *testing.T) {
	t.Parallel()
	s := trouble(t)
	size := 0
	all, err := sections(s)
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range all {
		size += len(part.HTML)
	}
	if size > 120_000 {
		t.Errorf("with three tables it has %d bytes", size)
	}
}

// Where a state can't be read whole, what is known is shown: at first of the source alone, and later of the replica what was known last.
func TestHalfAState(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := trouble(t)
		st := newStage(s)
		st.fail("the replica is away")
		seen := func() (text, old string) {
			time.Sleep(2 * every)
			for _, part := range st.hub.look(t.Context()).sections {
				text += string(part.HTML)
				if part.Old {
					old += part.ID + " "
				}
			}
			return text, old
		}
		text, old := seen()
		for _, want := range []string{"no news of the replica yet", "Scan of the source", "Key space, by age of verification", "An edit of the policy is refused", "4\u202f321"} {
			if !strings.Contains(text, want) {
				t.Errorf("at first it lacks %q", want)
			}
		}
		if old != "" || strings.Contains(text, "Gate and lag") || strings.Contains(text, "drifted now") {
			t.Errorf("at first it shows of the replica what nobody knows; old: %s", old)
		}
		st.set(s)
		if text, old = seen(); old != "" || !strings.Contains(text, "Gate and lag") {
			t.Errorf("then it is not whole; old: %s", old)
		}
		scan := *s.Scan
		scan.Waiting, s.Scan = "outside its windows", &scan
		st.set(s)
		st.fail("the replica is away")
		if text, old = seen(); old != "head notices tables chart levels gate resyncs corrections " || !strings.Contains(text, "Gate and lag") || !strings.Contains(text, "outside its windows") {
			t.Errorf("old: %s", old)
		}
		s.Scan = nil
		st.set(s)
		st.fail("the replica is away")
		if _, old = seen(); !strings.HasSuffix(old, " scan ") {
			t.Errorf("without a publisher here, old: %s", old)
		}
	})
}
