// The label page: tasks held ahead, answers by keys, and an outbox in the browser that is emptied as the server takes them.
import { say } from "./page.js";

const root = document.getElementById("label");
const $ = (id) => document.getElementById(id);
const csrf = () => document.querySelector('meta[name="csrf"]').content;
const AHEAD = root ? Number(root.dataset.ahead) : 0;
const REFUSED = new Set([400, 404, 413, 422]);
const WAIT_S = 15, MOST_WAIT_MS = 15_000;
const store = root ? `tidemill-label:${root.dataset.project}:${root.dataset.who}` : "";

// --- the outbox: what was answered and not taken yet, in this browser until it is

let unstored = []; // where the browser keeps nothing, the tab does

function waiting() {
  try { return JSON.parse(localStorage.getItem(store) ?? "[]"); } catch { return unstored; }
}

function keep(items) {
  unstored = items;
  try { localStorage.setItem(store, JSON.stringify(items)); } catch { /* the tab keeps them */ }
  sync();
}

const add = (item) => keep([...waiting(), item]);
const remove = (key) => keep(waiting().filter((one) => one.key !== key));

let sending = "", isFlushing = false, waitMs = 1000, timer = 0, trouble = "";

function sync() {
  const num = waiting().length, sign = $("label-sync");
  sign.classList.toggle("waits", num > 0 && !!trouble);
  if (!num) sign.textContent = trouble;
  else if (trouble) sign.textContent = `${num === 1 ? "1 answer is" : `${num} answers are`} kept in this browser: ${trouble}`;
  else sign.textContent = num > 2 ? `${num} answers on their way` : "";
}

async function flush() {
  if (isFlushing) return;
  isFlushing = true;
  clearTimeout(timer);
  try {
    const once = navigator.locks ? (work) => navigator.locks.request(store, work) : (work) => work();
    await once(sendAll);
  } finally { isFlushing = false; sync(); }
}

/** Send what waits, in its order; stop at the first that the server did not take, and try again later. */
async function sendAll() {
  for (let item = waiting()[0]; item; item = waiting()[0]) {
    const { verb, at: _, ...fields } = item;
    let answer;
    sending = item.key;
    try {
      answer = await fetch(`/label/-/${verb}`, {
        method: "POST", body: new URLSearchParams(fields), signal: AbortSignal.timeout(WAIT_S * 1000),
        headers: { "X-CSRF-Token": csrf(), "HX-Request": "true" },
      });
    } catch { later("the page does not answer. They are sent once it does."); return; } finally { sending = ""; }
    if (answer.ok) { marked.set(item.id, Date.now()); remove(item.key); trouble = ""; waitMs = 1000; continue; }
    if (answer.status === 401 || answer.status === 403) { trouble = "you are signed out. Load the page again, and they are sent."; return; }
    const why = words(await answer.text());
    if (REFUSED.has(answer.status)) { marked.delete(item.id); remove(item.key); say(`“${item.label ?? item.verb}” was not taken: ${why}`, "bad"); continue; }
    later(why);
    return;
  }
}

function later(why) {
  trouble = why;
  timer = setTimeout(flush, waitMs);
  waitMs = Math.min(waitMs * 2, MOST_WAIT_MS);
}

const words = (html) => new DOMParser().parseFromString(html, "text/html").querySelector("[data-toast] span")?.textContent.trim() || "the page failed on it";

// --- tasks

let tasks = [], current = null, done = [], isFetching = false, isEmpty = false, shownAt = 0, num = 0;
const began = Date.now();
const marked = new Map(); // when the server took what was answered in this tab: a list of tasks asked for before then may still name it

async function fetchTasks(id = "") {
  if (isFetching && !id) return [];
  isFetching = true;
  try {
    const held = tasks.length + (current ? 1 : 0) + waiting().length;
    const query = id ? `id=${encodeURIComponent(id)}` : `limit=${AHEAD + held}`;
    const answer = await fetch(`/label/-/tasks?${query}`, { headers: { "HX-Request": "true" }, signal: AbortSignal.timeout(WAIT_S * 1000) });
    const text = await answer.text();
    if (answer.status === 401) { location.href = `/sign-in?next=${encodeURIComponent(location.pathname)}`; return []; }
    if (!answer.ok) { trouble = new DOMParser().parseFromString(text, "text/html").body.textContent.trim(); sync(); return []; }
    if (!waiting().length) { trouble = ""; sync(); }
    return [...new DOMParser().parseFromString(text, "text/html").querySelectorAll("[data-task]")].map((one) => document.adoptNode(one));
  } catch { trouble = "The page does not answer: it is asked again."; sync(); setTimeout(fill, 3000); return []; } finally { isFetching = false; }
}

async function fill() {
  if (tasks.length >= AHEAD - 1) return;
  const askedAt = Date.now(), unsent = new Set(waiting().map((one) => one.id));
  const fetched = await fetchTasks();
  const held = new Set([...tasks, ...(current ? [current] : [])].map(idOf));
  for (const one of waiting()) unsent.add(one.id);
  tasks.push(...fetched.filter((one) => !held.has(idOf(one)) && !unsent.has(idOf(one)) && !((marked.get(idOf(one)) ?? 0) >= askedAt)));
  if (!current) show(tasks.shift() ?? null);
}

const idOf = (task) => task.dataset.task;

function next() {
  show(tasks.shift() ?? null);
  if (tasks.length < AHEAD - 1) fill();
}

function show(task, before = "") {
  current = task;
  isEmpty = !task;
  shownAt = Date.now();
  const said = before || task?.dataset.said || "";
  $("label-box").replaceChildren(...(task ? [task] : []));
  $("label-box").removeAttribute("aria-busy");
  $("label-none").hidden = !!task;
  $("label-note").hidden = !said;
  $("label-note").textContent = said ? `You said “${said}”. Another answer replaces it.` : "";
  for (const one of classes()) { one.disabled = !task; one.setAttribute("aria-pressed", String(!!said && one.dataset.label === said)); }
  for (const one of document.querySelectorAll("#label-number input, #label-number button, #label-find")) one.disabled = !task;
  $("label-skip").disabled = !task;
  $("label-undo").disabled = !done.length && !document.querySelector("[data-change]");
  const field = document.querySelector("#label-number input");
  if (field) { field.value = said; if (task && !document.querySelector("dialog[open]")) field.focus(); }
  $("label-count").textContent = num ? `${num} in this sitting` : "";
}

// --- what people do

const classes = () => [...document.querySelectorAll(".label-class")];
const shownClasses = () => classes().filter((one) => !one.hidden);

function give(verb, fields, word) {
  if (!current) return;
  const id = idOf(current);
  add({ verb, key: newKey(), id, at: Date.now(), ...fields });
  done.push({ task: current, said: fields.label ?? "", isSkip: verb === "skip" });
  done = done.slice(-50);
  marked.set(id, Infinity);
  num += 1;
  const summary = tasks[0]?.dataset.summary;
  const find = $("label-find");
  if (find?.value) { find.value = ""; narrow(""); }
  next();
  $("label-said").textContent = `${word}. ${current ? `Next: ${summary ? summary : "a picture"}` : "Nothing waits for you."}`;
  pace();
  flush();
}

const answer = (label) => give("answer", { label }, `Answered ${label}`);

/** Go back to the task before. What has not left this browser is not sent; what has is replaced by the next answer. */
async function undo() {
  const last = done.pop();
  if (!last) {
    const id = document.querySelector("[data-change]")?.dataset.change;
    if (id) await change(id);
    return;
  }
  const unsent = waiting().findLast((one) => one.id === idOf(last.task));
  const isBack = !!unsent && unsent.key !== sending;
  if (isBack) { remove(unsent.key); marked.delete(idOf(last.task)); }
  if (current) tasks.unshift(current);
  num = Math.max(0, num - 1);
  last.task.dataset.said = isBack || last.isSkip ? last.task.dataset.said : last.said;
  show(last.task, last.task.dataset.said);
  $("label-said").textContent = isBack ? "Back: nothing was sent." : "Back: another answer replaces the one before.";
}

async function change(id) {
  const [task] = await fetchTasks(id);
  if (!task) { say("This task cannot be shown now.", "bad"); return; }
  if (current) tasks.unshift(current);
  show(task);
  task.focus();
}

function newKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

function pace() {
  const place = document.querySelector("[data-pace]"), minutes = (Date.now() - began) / 60_000;
  if (place && num >= 3 && minutes > 0.2) place.textContent = `· ${Math.round(num / minutes)} a minute in this sitting`;
}

function narrow(text) {
  const wanted = text.trim().toLowerCase();
  for (const one of classes()) one.hidden = !one.dataset.label.toLowerCase().includes(wanted);
}

function ask() {
  if (!current) return;
  $("label-why-form").reset();
  $("label-why").showModal();
}

let isGoing = false; // `g` goes elsewhere with the key after it

function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  if (event.target.closest("input, textarea, select") || document.querySelector("dialog[open]")) return;
  if (isGoing) { isGoing = false; return; }
  const digit = event.code.match(/^(?:Digit|Numpad)([0-9])$/)?.[1] ?? (/^[0-9]$/.test(event.key) ? event.key : "");
  if (digit && !event.shiftKey) { const one = classes().find((held) => held.dataset.key === digit); if (one && current) { event.preventDefault(); answer(one.dataset.label); } return; }
  const verbs = { u: undo, s: ask, m: model, r: rules, f: find, g: () => { isGoing = true; setTimeout(() => { isGoing = false; }, 1200); } };
  if (verbs[event.key]) { if (event.key !== "g") event.preventDefault(); verbs[event.key](); }
}

function model() { const details = current?.querySelector(".model-says"); if (details) details.open = !details.open; }
function rules() { const details = $("rulebook"); if (details) details.open = !details.open; }
function find() { $("label-find")?.focus(); }

// --- to work

if (root) {
  document.addEventListener("keydown", pressed);
  root.addEventListener("click", (event) => {
    const one = event.target.closest(".label-class");
    if (one && event.detail < 2) answer(one.dataset.label); // the second click of a double one is no answer to the next
    const again = event.target.closest("[data-change]");
    if (again) change(again.dataset.change);
  });
  $("label-undo").addEventListener("click", undo);
  $("label-skip").addEventListener("click", ask);
  $("label-why-form").addEventListener("submit", (event) => {
    give("skip", { reason: new FormData(event.target).get("reason").trim() }, "Skipped");
  });
  $("label-number")?.addEventListener("submit", (event) => {
    event.preventDefault();
    answer(new FormData(event.target).get("label"));
  });
  $("label-number")?.addEventListener("keydown", (event) => { if (event.key === "Escape") event.target.blur(); });
  const field = $("label-find");
  field?.addEventListener("input", () => narrow(field.value));
  field?.addEventListener("keydown", (event) => {
    if (event.key === "Enter") { event.preventDefault(); const one = shownClasses()[0]; if (one) { answer(one.dataset.label); field.blur(); } }
    if (event.key === "Escape") { field.value = ""; narrow(""); field.blur(); }
  });
  root.addEventListener("live", () => { if (isEmpty || tasks.length < AHEAD - 1) fill(); });
  document.addEventListener("htmx:after:swap", () => { pace(); $("label-undo").disabled = !done.length && !document.querySelector("[data-change]"); });
  addEventListener("online", flush);
  addEventListener("storage", (event) => { if (event.key === store) sync(); });
  addEventListener("beforeunload", (event) => { // where nothing is kept over the tab's end
    try { localStorage.setItem(`${store}:try`, "1"); } catch { if (waiting().length) event.preventDefault(); }
  });
  if (matchMedia("(max-width: 860px)").matches && $("rulebook")) $("rulebook").open = false;
  sync();
  flush();
  if (root.dataset.first) await change(root.dataset.first);
  await fill();
  if (!current) show(null);
}
