// The live page: one stream in, everything on the screen out. Closed while nobody can see it; comes back by itself.

import { blocked, failing, overdue, showAlert } from "./alerts.js";
import { showBuffer, showFeeds } from "./buffer.js";
import { Chart, Cursor, spark } from "./charts.js";
import { Flow } from "./flow.js";
import { FORMATS, compact, count, ms, rate, timeOfDay } from "./format.js";
import { News } from "./news.js";
import { Past } from "./past.js";
import { setAttribute, setText } from "./svg.js";
import { Strip, showDrops, showEvents, showSymbols, showWorkers } from "./tables.js";

const SILENT_MS = 3000;
const AGAIN_MS = 1000;

const by = (id) => document.getElementById(id);
const past = new Past();
const cursor = new Cursor();
let snapshot = null;
let range = 300;

// What is drawn

const axisRate = (value) => compact(value).toLowerCase();
const axisMs = (value) => ms(value).replace(/\.0+ /, " ");
const latency = (id, key, label) =>
  new Chart(by(`chart-${id}`), cursor, {
    label,
    log: true,
    least: 1,
    format: ms,
    axis: axisMs,
    band: { low: `${key}_p50`, high: `${key}_p99`, kind: "tail" },
    series: [
      { key: `${key}_p50`, name: "p50", kind: "median" },
      { key: `${key}_p99`, name: "p99", kind: "tail" },
    ],
  });

const charts = [
  new Chart(by("chart-rates"), cursor, {
    label: "Rates, in ticks a second",
    least: 10,
    format: rate,
    axis: axisRate,
    series: [
      { key: "received", name: "received", kind: "received", area: true },
      { key: "lost", name: "lost", kind: "lost" },
      { key: "intentional", name: "skipped", kind: "intentional" },
      { key: "handled", name: "handled", kind: "handled" },
      { key: "failed", name: "failed", kind: "failed" },
      { key: "throttle_rate", name: "asked for", kind: "throttle", optional: true },
    ],
  }),
  new Chart(by("chart-queue"), cursor, {
    label: "Ticks in the queue; the top of the chart is its capacity",
    least: 1,
    top: () => snapshot?.queue.capacity,
    format: (value) => count(value),
    axis: axisRate,
    series: [
      { key: "queue_mean", name: "mean", kind: "queued", area: true },
      { key: "queue_max", name: "most", kind: "most" },
    ],
  }),
  latency("wait", "wait", "Wait in the queue"),
  latency("handler", "handler", "Time in the handler"),
  latency("lag", "lag", "Lag from a tick's own timestamp to its handling"),
];
const strip = new Strip(by("strip"));
const flow = new Flow(by("flow"), by("flow-text"));
const bound = [...document.querySelectorAll("[data-bind]")].map((element) => ({
  element,
  path: element.dataset.bind.split("."),
  format: FORMATS[element.dataset.format],
}));

const valueAt = (path) => path.reduce((value, name) => value?.[name], snapshot);

const CHIPS = {
  state: { running: ["●", "running", "good"], paused: ["‖", "paused", "warn"], draining: ["▽", "draining", "warn"], stopped: ["■", "stopped", "off"] },
  connection: { true: ["●", "feed connected", "good"], false: ["×", "feed not connected", "bad"] },
  pressure: { ok: ["●", "pressure ok", "good"], warn: ["▲", "pressure: warning", "warn"], shed: ["■", "pressure: shedding", "bad"] },
  law: { true: ["✓", "every tick accounted for", "good"], false: ["✕", "ledger broken", "bad"] },
};
// What the words mean in a half of a pipeline with a buffer between processes.
const OF_INGEST = { handled: "appended", in_flight: "in doubt" };
const BROKER = { true: ["●", "broker connected", "good"], false: ["×", "broker away", "bad"] };
// A paused work has given its shards back.
const LEFT = { ...BROKER, false: ["‖", "broker left", "warn"] };
// Under Block() a full queue discards nothing.
const WAITING = { ...CHIPS.pressure, shed: ["■", "queue full: the feed waits", "warn"] };
const FETCHED = { ok: ["●", "fetched: room", "good"], warn: ["●", "fetched: enough", "good"], shed: ["●", "fetched: all that fits", "good"] };
const news = new News(by("news"));

function showChip(name, value, words = CHIPS[name]) {
  const [glyph, word, mood] = words[value] ?? ["?", String(value), "off"];
  const chip = by(`chip-${name}`);
  setText(chip.querySelector(".glyph"), glyph);
  setText(chip.querySelector(".word"), word);
  setAttribute(chip, "class", `chip ${mood}`);
  news.note(name, word);
}

function showWords() {
  const words = snapshot.half === "ingest" ? OF_INGEST : {};
  for (const element of document.querySelectorAll("[data-word]")) {
    const word = words[element.dataset.word] ?? element.dataset.word.replace("_", " ");
    setText(element, element.localName === "h2" ? word[0].toUpperCase() + word.slice(1) : word);
  }
  by("given-back").hidden = snapshot.half !== "work";
  by("pool").hidden = snapshot.half === "ingest";
  by("results").hidden = !snapshot.results;
  by("recorder").hidden = !snapshot.recorder;
  by("connection").classList.toggle("alone", snapshot.half === "ingest");
}

function showLaw({ handled, failed, dropped, queued, in_flight, given_back, received, holds, unaccounted }) {
  const sum = handled + failed + dropped + queued + in_flight + given_back;
  setText(by("law-sum"), count(sum));
  setAttribute(by("law-sum"), "data-value", sum);
  const law = by("law");
  setAttribute(law, "class", holds ? "good" : "bad");
  setText(law.querySelector(".glyph"), holds ? "✓" : "✕");
  setText(law.querySelector("strong"), holds ? "OK" : "BROKEN");
  const by_ = Math.abs(unaccounted);
  setText(law.querySelector(".why"), holds ? `${count(received)} in, ${count(sum)} accounted for` : `${count(by_)} tick${by_ === 1 ? "" : "s"} ${unaccounted < 0 ? "too many" : "without an outcome"}: a bug`);
}

function showQueue({ size, capacity, peak, warn_at }) {
  const gauge = by("gauge");
  const part = (value) => `${Math.min(100, (100 * value) / capacity).toFixed(1)}%`;
  gauge.style.setProperty("--part", part(size));
  gauge.style.setProperty("--peak", part(peak));
  gauge.style.setProperty("--warn", part(warn_at));
  setAttribute(gauge, "aria-valuemax", capacity);
  setAttribute(gauge, "aria-valuenow", size);
  setAttribute(gauge, "aria-valuetext", `${count(size)} of ${count(capacity)}`);
  // A queue of fetched ticks is meant to be full.
  setAttribute(gauge, "class", snapshot.half === "work" ? "gauge" : `gauge ${snapshot.pressure.state}`);
}

function showThrottle(throttle) {
  if (!throttle) return setText(by("throttle"), "");
  return setText(by("throttle"), `· throttle: ${throttle.rate === null ? "no limit" : `${rate(throttle.rate)} ticks/s`} (${count(throttle.down)} steps down, ${count(throttle.up)} up)`);
}

function showAlerts() {
  const words = failing(snapshot);
  showAlert(by("failing"), words);
  showAlert(by("overdue"), overdue(snapshot));
  showAlert(by("blocked"), blocked(snapshot));
  showAlert(by("advice"), snapshot.advice ? `advice: ${snapshot.advice}` : "");
  by("figure-failed").classList.toggle("now", words !== "");
  // Not the words themselves: their numbers change at each look.
  news.note("failing", words ? "ticks fail" : "no tick fails");
}

function showSnapshot() {
  for (const { element, path, format } of bound) {
    const value = valueAt(path);
    setText(element, value === undefined ? "–" : format(value));
    setAttribute(element, "data-value", value);
  }
  showChip("state", snapshot.state);
  const alone = snapshot.half === "work" && !snapshot.ingest;
  showChip("connection", snapshot.connection.connected, alone ? (snapshot.state === "paused" ? LEFT : BROKER) : undefined);
  showChip("pressure", snapshot.pressure.state, alone ? FETCHED : snapshot.pressure.sheds ? undefined : WAITING);
  showChip("law", snapshot.ledger.holds);
  showWords();
  showLaw(snapshot.ledger);
  showQueue(snapshot.queue);
  showAlerts();
  showThrottle(snapshot.throttle);
  flow.show(snapshot);
  showBuffer(by("buffer"), snapshot);
  showFeeds(by("feeds"), snapshot.feeds);
  showDrops(by("drops"), snapshot.ledger);
  showSymbols(by("by-rate"), by("by-loss"), by("symbols-note"), snapshot.symbols);
  showWorkers(by("workers"), by("workers-note"), snapshot.workers);
  const fill = Math.round((100 * snapshot.queue.size) / snapshot.queue.capacity);
  document.title = `${snapshot.rates_per_s.failed ? "✕ failing · " : ""}${CHIPS.pressure[snapshot.pressure.state]?.[0] ?? ""} ${fill} % · ${snapshot.title} · trio-ticks`;
  setText(by("sequence"), `look ${count(snapshot.sequence)} at ${timeOfDay(snapshot.t)}`);
  // Last, so that who waits for a look finds all of it.
  setAttribute(by("sequence"), "data-value", snapshot.sequence);
}

function showPast() {
  if (!snapshot) return;
  // The history was asked for after the look was made: its newest point may be later, and would stand outside of the picture.
  const to = Math.max(snapshot.t, past.newest());
  const began = snapshot.t - snapshot.uptime_s * 1e3;
  // A run that is shorter than the range fills the width; but not one of seconds.
  const from = Math.min(Math.max(to - range * 1e3, began), to - 3e4);
  const points = past.points(to, range);
  for (const chart of charts) chart.show(points, from, to);
  const shown = past.events.at(-1);
  const known = past.events.filter(({ t }) => t <= to);
  strip.show(points, known, from, to);
  if (shown || !by("events").children.length) showEvents(by("events"), known);
  const recent = past.points(to, 120);
  for (const picture of document.querySelectorAll("[data-spark]")) spark(picture, recent.map((point) => point[picture.dataset.spark]));
}

// What comes in

let source = null;
let heard = 0;
let opening = null;

// A look brings the newest events; one may have been counted again since.
function mergeEvents(newest) {
  if (newest.length) past.events = [...past.events.filter(({ id }) => id < newest[0].id), ...newest].slice(-200);
}

async function loadPast() {
  const answer = await fetch("/api/history");
  if (answer.ok) past.load(await answer.json());
}

function take(event) {
  heard = Date.now();
  const next = JSON.parse(event.data);
  snapshot = next;
  by("lost").hidden = true;
  document.body.classList.remove("stale");
  mergeEvents(next.connection.events);
  showSnapshot();
  if (past.run !== next.run) reload();
}

let loading = false;
async function reload() {
  if (loading) return;
  loading = true;
  try {
    await loadPast();
    showPast();
  } catch {
    // The stream says whether the server is there; it will be asked again with the next look.
  } finally {
    loading = false;
  }
}

function open() {
  close();
  past.clear();
  source = new EventSource("/api/stream");
  source.addEventListener("snapshot", take);
  source.addEventListener("point", (event) => {
    past.add(JSON.parse(event.data));
    queueMicrotask(showPast);
  });
  source.addEventListener("error", () => {
    lose();
    past.clear();
    // The browser tries again by itself unless it was given something else than a stream.
    if (source?.readyState === EventSource.CLOSED) again();
  });
}

function close() {
  clearTimeout(opening);
  source?.close();
  source = null;
}

function again() {
  clearTimeout(opening);
  opening = setTimeout(open, AGAIN_MS);
}

function lose() {
  const banner = by("lost");
  if (!banner.hidden) return;
  const since = snapshot ? `since ${timeOfDay(snapshot.t)}: what is below is of then` : "yet";
  setText(banner, `No connection to the pipeline ${since}. Trying again …`);
  banner.hidden = false;
  document.body.classList.add("stale");
}

// A connection may be open and dead: a laptop that slept, a tunnel that hangs.
setInterval(() => {
  if (source && heard && Date.now() - heard > SILENT_MS && !document.hidden) {
    lose();
    heard = Date.now();
    open();
  }
}, 1000);

document.addEventListener("visibilitychange", () => {
  if (document.hidden) close();
  else if (!source) open();
});

// What can be set

for (const input of document.querySelectorAll("input[name=range]")) {
  input.addEventListener("change", () => {
    range = Number(input.value);
    showPast();
  });
}

const THEMES = { auto: ["◐", "as the system"], light: ["○", "light"], dark: ["●", "dark"] };
function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  const [glyph, word] = THEMES[theme];
  by("theme").firstElementChild.textContent = glyph;
  by("theme").setAttribute("aria-label", `Colours: ${word}`);
  by("theme").title = `Colours: ${word}`;
  try {
    localStorage.setItem("theme", theme);
  } catch {
    // Without storage the choice holds for this visit.
  }
}
by("theme").addEventListener("click", () => {
  const names = Object.keys(THEMES);
  setTheme(names[(names.indexOf(document.documentElement.dataset.theme) + 1) % names.length]);
});
let stored = null;
try {
  stored = localStorage.getItem("theme");
} catch {
  stored = null;
}
setTheme(stored in THEMES ? stored : "auto");

open();
