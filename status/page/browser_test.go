package page

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/trickle-verify/trickle/internal/testbed/browser"
)

// scheme is what the system prefers.
func scheme(name string) chromedp.Action {
	return emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: name}})
}

// contrasts reckons, for every text that is seen, its contrast with what it stands on, and returns those that are too low (WCAG 2.2, 1.4.3), and marks whose
// contrast is (1.4.11).
const contrasts = `(() => {
	const parse = (c) => { const m = c.match(/[\d.]+/g).map(Number); return {r: m[0], g: m[1], b: m[2], a: m.length > 3 ? m[3] : 1}; };
	const lum = (c) => { const f = (v) => { v /= 255; return v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; }; return .2126 * f(c.r) + .7152 * f(c.g) + .0722 * f(c.b); };
	const over = (a, b) => ({r: a.r * a.a + b.r * (1 - a.a), g: a.g * a.a + b.g * (1 - a.a), b: a.b * a.a + b.b * (1 - a.a), a: 1});
	const ground = (e) => { const layers = []; for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); layers.push(c); if (c.a === 1) break; }
		return layers.reverse().reduce((g, c) => over(c, g), {r: 255, g: 255, b: 255, a: 1}); };
	const ratio = (a, b) => { const x = lum(a), y = lum(b); return (Math.max(x, y) + .05) / (Math.min(x, y) + .05); };
	const bad = [];
	let texts = 0;
	const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
	for (let n; (n = walker.nextNode());) {
		if (!n.data.trim() || !n.parentElement.checkVisibility() || n.parentElement.closest("svg, noscript")) continue;
		texts++;
		const g = ground(n.parentElement), r = ratio(over(parse(getComputedStyle(n.parentElement).color), g), g);
		if (r < 4.5) bad.push(n.data.trim() + ": " + r.toFixed(2));
	}
	for (const s of document.querySelectorAll(".marks path, .marks circle, .glyph path, .glyph circle, .sign, .cells .a0, .cells .a4, rect.fill, .chart path:not(.grid)")) {
		const style = getComputedStyle(s), c = style.fill === "none" ? style.stroke : style.fill, g = ground(s.closest("section, p, .figures, body")), r = ratio(parse(c), g);
		if (r < 3) bad.push(s.outerHTML.slice(0, 60) + ": " + r.toFixed(2));
	}
	if (texts < 50) bad.push("only " + texts + " texts were seen");
	return bad;
})()`

// unnamed lists what a screen reader could not name, and ids that are there twice.
const unnamed = `(() => {
	const bad = [], seen = new Set();
	for (const e of document.querySelectorAll("[id]")) { if (seen.has(e.id)) bad.push("two of #" + e.id); seen.add(e.id); }
	for (const s of document.querySelectorAll("svg")) if (!s.closest("[aria-hidden=true]") && !(s.getAttribute("role") === "img" && s.getAttribute("aria-label"))) bad.push(s.outerHTML.slice(0, 80));
	for (const t of document.querySelectorAll("table")) { if (!t.caption || !t.caption.textContent.trim()) bad.push("a table without a caption"); for (const h of t.querySelectorAll("th")) if (!h.scope) bad.push("a th without scope: " + h.textContent); }
	for (const s of document.querySelectorAll("section")) if (!document.getElementById(s.getAttribute("aria-labelledby"))) bad.push("a section without a name");
	let level = 0;
	for (const h of document.querySelectorAll("h1, h2, h3")) { const l = +h.tagName[1]; if (l > level + 1) bad.push("from h" + level + " to h" + l + ": " + h.textContent); level = l; }
	if (document.querySelectorAll("[aria-live], [role=status], [role=alert]").length !== 1) bad.push("more or less than one live region");
	if (document.querySelectorAll("[style], style, script:not([src])").length) bad.push("something is in line");
	for (const c of document.querySelectorAll(".plain td, .plain th, .detail, .line dd, h3, .legend li")) { const r = c.getBoundingClientRect(), box = c.closest("section, .figures").getBoundingClientRect();
		if (r.width && r.right > box.right - 8 && !c.closest(".unseen")) bad.push("it sticks out of its card: " + c.outerHTML.slice(0, 120)); }
	if (document.documentElement.scrollWidth > innerWidth) for (const e of document.querySelectorAll("main *"))
		if (e.getBoundingClientRect().right > innerWidth + 1 && !e.closest(".scroll *, .unseen, svg *, .mend code")) { bad.push("it scrolls sideways: " + e.outerHTML.slice(0, 200)); break; }
	return bad;
})()`

func none(t *testing.T, what string, found []string) {
	t.Helper()
	if len(found) > 0 {
		t.Errorf("%s:\n%s", what, strings.Join(found, "\n"))
	}
}

// One browser sees it all: what is shown, to whom, and how it comes and goes.
func TestInABrowser(t *testing.T) {
	t.Parallel()
	b := browser.Start(t)
	t.Run("states", func(t *testing.T) { seesStates(t, b) })
	t.Run("keyboard", func(t *testing.T) { walksByKeyboard(t, b) })
	t.Run("streams", func(t *testing.T) { followsStreams(t, b) })
	t.Run("without scripts", func(t *testing.T) { seesItWithoutScripts(t, b) })
}

func seesStates(t *testing.T, b *browser.Browser) {
	for name, s := range map[string]State{"quiet": quiet(t), "in trouble": trouble(t), "a publisher": {Pipeline: "orders", At: now(), Policy: rules(t, ""), Scan: scanning(quiet(t))}} {
		url, _ := newStage(s).serve(t, "127.0.0.1:0")
		tab := b.Open(t)
		for _, look := range []string{"light", "dark"} {
			for _, wide := range []int64{1280, 1024, 390} {
				if name != "in trouble" && wide < 1280 {
					continue
				}
				tab.Do(scheme(look), chromedp.EmulateViewport(wide, 900), chromedp.Navigate(url))
				tab.Await("it is live", `document.getElementById("live").dataset.live === "on"`)
				tab.Do(chromedp.Evaluate(`document.querySelectorAll("details").forEach((d) => { d.open = true; })`, nil))
				where := fmt.Sprintf("%s, %s, %d wide", name, look, wide)
				none(t, where+": too little contrast", browser.Eval[[]string](tab, contrasts))
				none(t, where, browser.Eval[[]string](tab, unnamed))
			}
		}
		// What the theme button says wins over the system, and stays.
		if ground := func() string {
			return browser.Eval[string](tab, `getComputedStyle(document.documentElement).backgroundColor`)
		}; name == "quiet" {
			dark := ground()
			tab.Do(chromedp.Click("#theme"))
			light := ground()
			tab.Do(chromedp.Reload())
			if again := ground(); light == dark || again != light {
				t.Errorf("the ground is %s, with the theme chosen %s, and loaded again %s", dark, light, again)
			}
			none(t, "a chosen theme: too little contrast", browser.Eval[[]string](tab, contrasts))
			tab.Do(chromedp.Click("#theme"), chromedp.Click("#theme"))
		}
	}
}

func walksByKeyboard(t *testing.T, b *browser.Browser) {
	url, _ := newStage(trouble(t)).serve(t, "127.0.0.1:0")
	tab := b.Open(t)
	tab.Do(chromedp.EmulateViewport(1280, 900), chromedp.Navigate(url))
	tab.Await("it is live", `document.getElementById("live").dataset.live === "on"`)
	var walk []string
	for range 40 {
		tab.Do(chromedp.KeyEvent(kb.Tab))
		at := browser.Eval[string](tab, `(() => { const e = document.activeElement, r = e.getBoundingClientRect(), s = getComputedStyle(e);
			if (e === document.body) return "";
			if (s.outlineStyle === "none" || r.width === 0) return "NOT SEEN: " + e.outerHTML;
			return (e.getAttribute("aria-label") || e.textContent).trim(); })()`)
		if at == "" {
			break
		}
		walk = append(walk, at)
	}
	before := -1
	for _, want := range []string{
		"Skip to content", "Theme: system", "trickle-consumer brake --release --policy policy.yaml", "trickle-consumer pin --source 77/shop --policy policy.yaml", "trickle policy validate policy.yaml",
		"trickle-consumer resync --approve d4e5f6 --policy policy.yaml", "public.order_items in numbers", "public.orders in numbers", "Corrections in numbers", "Trace 4bf92f3577b34da6a3ce929d0e0e4736",
	} {
		at := slices.Index(walk, want)
		if at <= before {
			t.Errorf("%q comes at place %d, after %d", want, at, before)
		}
		before = at
	}
	if strings.Contains(strings.Join(walk, "\n"), "NOT SEEN") {
		t.Errorf("where the focus is can't be seen:\n%s", strings.Join(walk, "\n"))
	}

	// What assistive technology hears.
	var tree struct {
		Nodes []struct {
			Ignored bool `json:"ignored"`
			Role    struct {
				Value any `json:"value"`
			} `json:"role"`
			Name struct {
				Value any `json:"value"`
			} `json:"name"`
		} `json:"nodes"`
	}
	tab.Do(chromedp.ActionFunc(func(ctx context.Context) error { return cdp.Execute(ctx, "Accessibility.getFullAXTree", nil, &tree) }))
	var heard []string
	for _, n := range tree.Nodes {
		if !n.Ignored {
			heard = append(heard, fmt.Sprint(n.Role.Value, " ", n.Name.Value))
		}
	}
	for _, want := range []string{
		"main ", "heading pipeline orders", "heading Needs a look", "heading Key space, by age of verification", "region Corrections over time", "heading Gate and lag", "heading Resyncs",
		"table The last corrections", "heading Scan of the source", "link Trace 4bf92f3577b34da6a3ce929d0e0e4736", "link Skip to content", "button Theme: system",
		"image Key space of public.orders: 446 of 480 ranges verified, drift found in", "image Corrections in the last 24 h", "columnheader outcome", "rowheader public.orders",
	} {
		if !slices.ContainsFunc(heard, func(h string) bool { return strings.HasPrefix(h, want) }) {
			t.Errorf("a screen reader does not hear %q", want)
		}
	}
	// Nothing that was folded in by somebody else's words becomes markup.
	if n := browser.Eval[int](tab, `document.querySelectorAll("main script").length`); n != 0 {
		t.Errorf("%d scripts came in with the data", n)
	}
}

func followsStreams(t *testing.T, b *browser.Browser) {
	st := newStage(quiet(t))
	url, stop := st.serve(t, "127.0.0.1:0")
	tab := b.Open(t)
	tab.Do(chromedp.EmulateViewport(1280, 900), chromedp.Navigate(url))
	tab.Await("it is live", `document.getElementById("live").dataset.live === "on"`)
	// What changes is put in place; what does not, and what somebody opened or holds, stays.
	tab.Do(chromedp.Evaluate(`window.kept = document.querySelector("#tables article"); kept.querySelector("details").open = true; kept.querySelector("summary").focus();
		window.moved = 0; new MutationObserver((m) => { moved += m.length; }).observe(document.getElementById("corrections"), {subtree: true, childList: true, characterData: true, attributes: true});`, nil))
	st.set(trouble(t))
	tab.Await("the trouble shows", `document.getElementById("notices").textContent.includes("The brake is on") && document.title.startsWith("2 things are stopped")`)
	tab.Await("it is said once", `document.getElementById("announce").textContent === "2 things are stopped"`)
	tab.Await("what was open and held stays so", `kept.isConnected && kept.querySelector("details").open && document.activeElement === kept.querySelector("summary")`)
	tab.Await("times count", `document.querySelector("#corrections time").textContent.endsWith("ago")`)
	was := browser.Eval[int](tab, `moved`)
	more := trouble(t)
	more.Replica.Tables[1].Suspects = 4711
	st.set(more)
	tab.Await("the count shows", `document.getElementById("tables").textContent.includes("4711")`)
	if is := browser.Eval[int](tab, `moved`); is > was+60 { // times may have counted on
		t.Errorf("what did not change was touched %d times", is-was)
	}
	st.fail("the database is away")
	tab.Await("the failure shows and the rest stays", `!document.getElementById("trouble").hidden && document.getElementById("trouble-text").textContent === "the database is away" && document.getElementById("tables").textContent.includes("4711")`)
	const doubted = `document.getElementById("unknown").checkVisibility() && !document.getElementById("headline").checkVisibility() && document.title.startsWith("not known now")
		&& /last news (just now|\d+ (s|min) ago)/.test(document.getElementById("unknown").textContent) && getComputedStyle(document.querySelector(".figures")).filter === "grayscale(1)"`
	tab.Await("what it was is no headline any more", doubted)
	tab.Await("and nothing says in green that all is well with it", `document.getElementById("live").dataset.live === "held" && getComputedStyle(document.querySelector(".dot")).backgroundColor === "rgba(0, 0, 0, 0)"`)
	grey := func(id, is string) string {
		return `getComputedStyle(document.getElementById("` + id + `")).filter === "` + is + `"`
	}
	tab.Await("what is still known is as ever", grey("scan", "none")+" && "+grey("gate", "grayscale(1)"))
	st.set(quiet(t))
	tab.Await("it is over", `!document.getElementById("unknown").checkVisibility() && document.getElementById("trouble").hidden && document.getElementById("headline").textContent === "all is well"`)

	// The server goes away, and another comes to its place.
	stop()
	tab.Await("that it is gone shows", `document.getElementById("live").dataset.live === "lost"`)
	tab.Await("and that nothing is known since", doubted)
	if faults := tab.Faults(); len(faults) > 0 && !strings.Contains(strings.Join(faults, "\n"), "ERR_CONNECTION_REFUSED") {
		t.Errorf("losing the server made other errors: %v", faults)
	}
	back := trouble(t)
	back.Pipeline = "orders"
	newStage(back).serve(t, strings.TrimPrefix(url, "http://"))
	tab.Await("it is back", `!document.getElementById("unknown").checkVisibility() && document.getElementById("live").dataset.live === "on" && document.getElementById("headline").textContent === "2 things are stopped"`)
	for _, f := range tab.Faults() {
		if !strings.Contains(f, "ERR_CONNECTION_REFUSED") {
			t.Errorf("coming back made an error: %s", f)
		}
	}
}

func seesItWithoutScripts(t *testing.T, b *browser.Browser) {
	st := newStage(trouble(t))
	url, _ := st.serve(t, "127.0.0.1:0")
	tab := b.Open(t)
	tab.Do(emulation.SetScriptExecutionDisabled(true), chromedp.Navigate(url))
	text := ""
	tab.Do(chromedp.Text("body", &text))
	for _, want := range []string{"2 things are stopped", "trickle-consumer brake --release", "public.orders", "31 of 90", "reloads every 10 s", "UTC", "312 of 500"} {
		if !strings.Contains(text, want) {
			t.Errorf("without scripts the page lacks %q", want)
		}
	}
	if n := st.hub.watching(); n != 0 {
		t.Errorf("%d watch", n)
	}
}
