// What every view shares: live updates, dialogs, toasts, theme, keys, times, copying, filters, charts.
const $ = (selector, root = document) => root.querySelector(selector);
const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
const html = document.documentElement;
const csrf = () => $('meta[name="csrf"]')?.content ?? "";
const TOAST_MS = 8000;

// --- requests carry the proof that they are the page's own

document.addEventListener("htmx:config:request", (event) => {
  const request = event.detail.ctx?.request;
  if (request) request.headers["X-CSRF-Token"] = csrf();
});

document.addEventListener("htmx:after:request", (event) => {
  const source = event.detail.ctx?.sourceElement;
  const status = event.detail.ctx?.response?.status ?? 0;
  if (source?.matches?.("form[data-act]") && status >= 200 && status < 300) {
    source.closest("dialog")?.close();
    source.reset?.();
  }
});

document.addEventListener("htmx:error", (event) => {
  const source = event.detail?.ctx?.sourceElement ?? event.target;
  if (source?.matches?.("form[data-act]")) say("The page does not answer: nothing was done. Try again.", "bad");
});

document.addEventListener("tidemill-acted", redraw);

/** Fetch the page again and put what it shows in place of what is shown. */
async function redraw() {
  const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
  if (!answer.ok) return;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").querySelector("#main");
  if (!fresh) return;
  const main = $("#main");
  main.replaceChildren(...fresh.childNodes);
  htmx.process(main);
  settle(main);
}

// --- words on what happened

export function say(text, tone = "good") {
  const toast = document.createElement("div");
  toast.className = `toast ${tone}`;
  toast.dataset.toast = "";
  toast.append(Object.assign(document.createElement("span"), { textContent: text }));
  $("#toasts").append(toast);
}

new MutationObserver((changes) => {
  for (const node of changes.flatMap((change) => [...change.addedNodes])) {
    if (!node.matches?.("[data-toast]")) continue;
    if (!node.classList.contains("bad")) setTimeout(() => node.remove(), TOAST_MS);
  }
}).observe($("#toasts"), { childList: true });

// --- times, told from now on

const skew = Number(html.dataset.now || Date.now()) - Date.now();
const SPANS = [[86400, "d"], [3600, "h"], [60, "min"]];

function ago(seconds) {
  const size = Math.abs(seconds);
  if (size < 1) return "now";
  let words = `${Math.round(size)} s`;
  for (const [span, unit] of SPANS) {
    if (size >= span) { words = `${(size / span).toFixed(size / span < 10 && unit !== "min" ? 1 : 0).replace(/\.0$/, "")} ${unit}`; break; }
  }
  return seconds > 0 ? `${words} ago` : `in ${words}`;
}

function tick() {
  for (const time of $$("time[data-when]")) {
    time.textContent = ago((Date.now() + skew - Date.parse(time.dateTime)) / 1000);
  }
}
setInterval(tick, 5000);

// --- charts, loaded where there are some

async function drawCharts(root) {
  const charts = $$("[data-chart]", root).filter((one) => !one.dataset.drawn);
  if (!charts.length) return;
  const { draw } = await import("./chart.js");
  for (const one of charts) { one.dataset.drawn = "yes"; draw(one); }
}

/** Bring to life what was just put into the page. */
function settle(root) { drawCharts(root); tick(); }

document.addEventListener("htmx:after:swap", (event) => {
  const target = event.detail.ctx?.target ?? event.target;
  if (target?.removeAttribute) target.removeAttribute("aria-busy");
  settle(document);
  if (target?.id === "drawer-body") { const drawer = $("#drawer"); if (!drawer.open) drawer.showModal(); }
});

// --- live updates: one stream a page, closed while nobody looks at it

let stream = null, isMissed = false;

function listen() {
  if (stream || document.hidden || !$("#live")) return;
  stream = new EventSource("/-/live");
  stream.addEventListener("hello", (event) => { live("on"); count(JSON.parse(event.data)); if (isMissed) refetch(null); isMissed = false; });
  stream.addEventListener("changed", (event) => {
    const { topics, counts } = JSON.parse(event.data);
    count(counts);
    refetch(new Set(topics));
  });
  stream.addEventListener("error", () => { isMissed = true; live("off"); });
}

function refetch(topics) {
  for (const part of $$("[data-live]")) {
    if (topics === null || part.dataset.live.split(" ").some((one) => topics.has(one))) renew(part);
  }
}

// A part is left alone while somebody writes in it, and keeps what they have opened and where they are.
const REACHABLE = "a[href], button, summary, [tabindex]";

function renew(part) {
  const busy = $("dialog[open]", part) || (part.contains(document.activeElement) && document.activeElement.matches("input, textarea, select"));
  part.toggleAttribute("data-missed", Boolean(busy));
  if (busy) return;
  part.kept = { focus: $$(REACHABLE, part).indexOf(document.activeElement), open: $$("details", part).map((one) => one.open) };
  htmx.trigger(part, "live", {}, false);
}

function restore(part) {
  const { focus, open } = part.kept;
  delete part.kept;
  const details = $$("details", part);
  if (details.length === open.length) details.forEach((one, i) => { one.open = open[i]; });
  if (focus >= 0 && document.activeElement === document.body) $$(REACHABLE, part)[focus]?.focus({ preventScroll: true });
}

for (const ended of ["close", "focusout"]) {
  document.addEventListener(ended, () => setTimeout(() => $$("[data-missed]").forEach(renew)), true);
}
document.addEventListener("htmx:after:swap", () => $$("[data-live]").filter((part) => part.kept).forEach(restore));

function live(state) {
  const sign = $("#live");
  sign.dataset.state = state;
  $(".live-word", sign).textContent = state === "on" ? "live" : "offline";
}

function count(counts) {
  for (const badge of $$("[data-badge]")) {
    const value = counts[badge.dataset.badge] ?? 0;
    badge.textContent = value >= 10000 ? `${(value / 1000).toFixed(1)}k` : String(value);
    badge.hidden = value === 0;
  }
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) { stream?.close(); stream = null; isMissed = true; } else listen();
});
addEventListener("pagehide", () => { stream?.close(); stream = null; });
addEventListener("pageshow", listen);

// --- clicks

document.addEventListener("click", (event) => {
  const at = (selector) => event.target.closest(selector);
  if (at("[data-open]")) document.getElementById(at("[data-open]").dataset.open)?.showModal();
  if (at("[data-close]")) at("dialog")?.close();
  if (at("[data-dismiss]")) at("[data-toast]")?.remove();
  if (at("[data-menu]")) menu(!document.body.classList.contains("menu-open"));
  if (at("[data-keys]")) $("#keys").showModal();
  if (at("[data-theme-toggle]")) turnTheme();
  if (at("[data-copy]")) copy(at(".code"));
  if (event.target.matches("dialog")) event.target.close(); // its backdrop
});

function menu(isOpen) {
  document.body.classList.toggle("menu-open", isOpen);
  $("[data-menu]").setAttribute("aria-expanded", String(isOpen));
  if (isOpen) $("#rail a")?.focus();
}

async function copy(box) {
  const text = $("code", box).textContent;
  try { await navigator.clipboard.writeText(text); say("Copied."); } catch { getSelection().selectAllChildren($("code", box)); }
}

document.addEventListener("change", (event) => {
  const form = event.target.closest("form[data-filters]");
  if (form) form.requestSubmit();
  const all = event.target.dataset?.pickAll;
  if (all) for (const box of $$(`input[type=checkbox][form="${CSS.escape(all)}"]`)) box.checked = event.target.checked;
});

// An address without empty fields is one that people can read.
document.addEventListener("submit", (event) => {
  const form = event.target;
  if (!form.matches("form[data-filters]")) return;
  for (const field of form.elements) if (field.name && !field.value) field.disabled = true;
}, true);
addEventListener("pageshow", () => { for (const field of $$("form[data-filters] :disabled")) field.disabled = false; });

// --- theme

const THEMES = ["system", "light", "dark"];

function turnTheme() {
  const next = THEMES[(THEMES.indexOf(html.dataset.theme || "system") + 1) % THEMES.length];
  if (next === "system") delete html.dataset.theme; else html.dataset.theme = next;
  try { localStorage.setItem("tidemill-theme", next); } catch {}
  nameTheme();
  document.dispatchEvent(new CustomEvent("tidemill:theme"));
}

function nameTheme() {
  const button = $("[data-theme-toggle]");
  const name = `Theme: ${html.dataset.theme || "system"}`;
  if (button) { button.setAttribute("aria-label", name); button.title = name; }
}

// --- keys

const PLACES = { o: "/", p: "/predictions", c: "/cohorts", d: "/drift", m: "/models", l: "/label", r: "/rollout", a: "/alerts", t: "/try", b: "/backtests", s: "/strategy" };
let isGoing = false;

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape" && document.body.classList.contains("menu-open")) { menu(false); $("[data-menu]").focus(); }
  if (event.target.closest("input, textarea, select, [contenteditable]") || $("dialog[open]")) return;
  if (isGoing) {
    isGoing = false;
    const place = PLACES[event.key];
    if (place && $(`#rail a[href="${place}"]`)) { event.preventDefault(); location.href = place; }
  } else if (event.key === "g") {
    isGoing = true;
    setTimeout(() => { isGoing = false; }, 1200);
  } else if (event.key === "?") {
    event.preventDefault();
    $("#keys").showModal();
  } else if (event.key === "/") {
    const field = $("#main input[type=search], #main [data-filters] select");
    if (field) { event.preventDefault(); field.focus(); }
  } else if (event.key === "t") turnTheme();
});

nameTheme();
settle(document);
listen();
