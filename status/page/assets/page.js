// The page works without this. With it, what changes is put in place as it is told, times count, and the theme can be chosen.
"use strict";
(() => {
  const root = document.documentElement;
  const themes = ["system", "light", "dark"];
  const store = {
    get() { try { return localStorage.getItem("trickle-theme"); } catch { return null; } },
    set(v) { try { localStorage.setItem("trickle-theme", v); } catch { /* a browser that keeps nothing */ } },
  };
  let theme = themes.includes(store.get()) ? store.get() : "system";
  const dress = () => { if (theme === "system") root.removeAttribute("data-theme"); else root.dataset.theme = theme; };
  dress(); // before the first paint

  let skew = 0; // of this clock to the server's

  // since says how long ago a time was, as long as that is not long.
  const since = (at) => {
    const s = (Date.now() - skew - at) / 1000;
    if (s < 1) return "just now";
    if (s < 60) return Math.floor(s) + " s ago";
    if (s < 3600) return Math.floor(s / 60) + " min ago";
    if (s < 48 * 3600) return Math.floor(s / 3600) + " h ago";
    return Math.floor(s / 86400) + " d ago";
  };
  const tick = () => {
    for (const t of document.querySelectorAll("time[datetime]")) {
      const text = since(Date.parse(t.dateTime));
      if (t.textContent !== text) t.textContent = text;
    }
  };

  // settle makes one element what another is, and touches only what differs, so that focus, selection, scrolling and what was unfolded stay.
  const settle = (have, want) => {
    if (have.nodeType !== want.nodeType || have.nodeName !== want.nodeName || (have.id || "") !== (want.id || "")) { have.replaceWith(want); return; }
    if (have.nodeType !== Node.ELEMENT_NODE) { if (have.data !== want.data) have.data = want.data; return; }
    for (const a of [...have.attributes]) if (!want.hasAttribute(a.name) && !(have.nodeName === "DETAILS" && a.name === "open")) have.removeAttribute(a.name);
    for (const a of want.attributes) if (have.getAttribute(a.name) !== a.value) have.setAttribute(a.name, a.value);
    if (have.nodeName === "TIME") return; // tick sees to its text
    children(have, want);
  };
  const children = (have, want) => {
    const wanted = [...want.childNodes];
    while (have.childNodes.length > wanted.length) have.lastChild.remove();
    wanted.forEach((w, i) => { if (i < have.childNodes.length) settle(have.childNodes[i], w); else have.append(w); });
  };

  const start = () => {
    const $ = (id) => document.getElementById(id);
    const version = document.body.dataset.version;
    skew = Date.now() - Date.parse(document.body.dataset.now);

    const button = $("theme");
    const label = () => { button.textContent = "Theme: " + theme; };
    label();
    button.hidden = false;
    button.addEventListener("click", () => { theme = themes[(themes.indexOf(theme) + 1) % themes.length]; store.set(theme); dress(); label(); });

    const live = (state, text) => { $("live").dataset.live = state; if ($("live-text").textContent !== text) $("live-text").textContent = text; };
    const say = (text) => { if ($("announce").textContent !== text) $("announce").textContent = text; };
    const stale = () => "stale" in document.body.dataset;
    // doubt greys what is shown while nothing newer is known: the parts of these names, or all.
    const doubt = (is, old) => {
      document.body.toggleAttribute("data-stale", is);
      for (const part of document.querySelectorAll("main > .part")) part.toggleAttribute("data-old", is && (!old || old.includes(part.id)));
      title();
    };
    const title = () => {
      const h = $("headline"), name = document.querySelector("h1");
      if (h && name) document.title = (stale() ? "not known now" : h.textContent) + " · " + name.textContent.replace(/^\s*pipeline\s*/, "") + " · trickle";
    };

    const show = (state) => {
      if (state.version !== version) { location.reload(); return; }
      skew = Date.now() - Date.parse(state.now);
      if (state.trouble && $("trouble").hidden) say("The state can’t be read");
      $("trouble").hidden = !state.trouble;
      $("trouble-text").textContent = state.trouble;
      const headline = $("headline") && $("headline").textContent;
      const main = $("main");
      for (const [id, html] of Object.entries(state.changed)) {
        const want = document.createElement("template");
        want.innerHTML = html;
        let part = $(id);
        if (!part) {
          part = document.createElement("div");
          part.id = id;
          part.className = "part";
          for (const p of [...main.children]) if (!p.id) p.remove();
          main.append(part);
        }
        children(part, want.content);
      }
      tick();
      doubt(Boolean(state.trouble), state.old || []);
      if (headline && $("headline") && $("headline").textContent !== headline) say($("headline").textContent);
      live(state.trouble ? "held" : "on", state.trouble ? "waiting for news" : "live");
    };

    let delay = 1000, events;
    const connect = () => {
      events = new EventSource("/events");
      events.addEventListener("state", (e) => { delay = 1000; show(JSON.parse(e.data)); });
      events.addEventListener("error", () => {
        if ($("live").dataset.live !== "lost") say("The connection is lost");
        doubt(true, null);
        live("lost", "no connection, trying again");
        events.close();
        setTimeout(connect, delay);
        delay = Math.min(delay * 2, 10000);
      });
    };
    addEventListener("pagehide", () => events.close());
    addEventListener("pageshow", (e) => { if (e.persisted) connect(); });
    tick();
    title();
    setInterval(tick, 1000);
    connect();
  };
  if (document.readyState === "loading") addEventListener("DOMContentLoaded", start); else start();
})();
