// The parts that are lists: drops, symbols, workers, the connection's events.

import { INTENTIONAL, REASONS } from "./past.js";
import { count, rate, share, timeOfDay } from "./format.js";
import { html, setAttribute, setText, svg, sync } from "./svg.js";

const row = (cells) => () => html("tr", {}, html("th", { scope: "row" }, html("span", { class: "cell" })), ...Array.from({ length: cells }, () => html("td", { class: "number" })));

function fill(line, kind, name, part, values) {
  setAttribute(line, "class", kind);
  const label = line.firstChild.firstChild;
  setText(label, name);
  setAttribute(label, "title", name);
  line.style.setProperty("--part", `${Math.round(Math.min(Math.max(part, 0), 1) * 1000) / 10}%`);
  values.forEach((value, index) => setText(line.children[index + 1], value));
}

export function showDrops(table, { dropped_by_reason: drops, received }) {
  sync(table.tBodies[0], REASONS, row(2), (line, reason) => {
    const kind = `${INTENTIONAL.includes(reason) ? "intentional" : "lost"}${drops[reason] ? "" : " none"}`;
    fill(line, kind, reason, drops[reason] / Math.max(received, 1), [count(drops[reason]), drops[reason] ? share(drops[reason], received) : "–"]);
    setAttribute(line, "data-reason", reason);
    setAttribute(line, "data-value", drops[reason]);
  });
}

export function showSymbols(byRate, byLoss, note, symbols) {
  const [rates, losses] = symbols ? [symbols.by_rate, symbols.by_loss] : [[], []];
  const busiest = rates[0]?.received_per_s || 1;
  sync(byRate.tBodies[0], rates, row(2), (line, each) =>
    fill(line, "received", each.symbol, each.received_per_s / busiest, [rate(each.received_per_s), each.lost_per_s ? rate(each.lost_per_s) : "–"]),
  );
  sync(byLoss.tBodies[0], losses, row(2), (line, each) =>
    fill(line, "lost", each.symbol, each.received_per_s ? each.lost_per_s / each.received_per_s : 1, [rate(each.lost_per_s), share(Math.min(each.lost_per_s, each.received_per_s), each.received_per_s)]),
  );
  byLoss.classList.toggle("empty", symbols !== null && !losses.length);
  if (!symbols || !symbols.window_s) setText(note, "counting begins when this page is opened …");
  else setText(note, `${count(symbols.distinct)} symbol${symbols.distinct === 1 ? "" : "s"} in the last ${symbols.window_s} s, ${symbols.exact ? "every tick counted" : "a sample: there are too many to count all"}`);
}

const STATES = { busy: "●", idle: "○", ended: "×" };

export function showWorkers(list, note, workers) {
  const many = workers.length > 16;
  list.classList.toggle("many", many);
  document.body.classList.toggle("many-workers", many);
  const busy = workers.filter(({ state }) => state === "busy").length;
  const load = workers.reduce((sum, { busy_ratio }) => sum + busy_ratio, 0) / Math.max(workers.length, 1);
  const failed = workers.reduce((sum, each) => sum + each.failed, 0);
  setText(note, `${workers.length}, ${busy} at work, ${Math.round(load * 100)} % of their time busy${failed ? `, ${count(failed)} ticks failed` : ""}`);
  const make = () => html("li", {}, ...["glyph", "name", "symbol", "load", "percent", "done"].map((name) => html("span", { class: name })));
  sync(list, workers, make, (item, worker) => {
    const [glyph, name, symbol, load, percent, done] = item.children;
    setAttribute(item, "class", worker.state);
    setAttribute(item, "aria-label", `${worker.name}: ${worker.state}, ${Math.round(worker.busy_ratio * 100)} % busy, ${count(worker.consumed)} handled${worker.failed ? `, ${worker.failed} failed` : ""}`);
    setText(glyph, STATES[worker.state] ?? "?");
    setText(name, worker.name);
    setText(symbol, worker.symbol ?? worker.state);
    setAttribute(symbol, "title", worker.symbol ?? worker.state);
    load.style.setProperty("--part", `${Math.round(worker.busy_ratio * 1000) / 10}%`);
    setText(percent, `${Math.round(worker.busy_ratio * 100)} %`);
    setText(done, count(worker.consumed) + (worker.failed ? ` (${count(worker.failed)} failed)` : ""));
    setAttribute(item, "data-consumed", worker.consumed);
    setAttribute(item, "data-failed", worker.failed);
  });
}

const MARGIN = 62;

const STORY = {
  connected: ["●", "connected"],
  reconnected: ["●", "connected again"],
  lost: ["×", "connection lost"],
  failed: ["△", "could not connect"],
  silent: ["△", "nothing arrived for too long"],
  ended: ["■", "the feed has ended"],
};

export function showEvents(list, events) {
  const newest = events.slice(-40).reverse();
  sync(list, newest, () => html("li", {}, html("time"), html("span", { class: "glyph", "aria-hidden": "true" }), html("span")), (item, event) => {
    const [glyph, words] = STORY[event.kind] ?? ["·", event.kind];
    setAttribute(item, "class", event.kind);
    setText(item.children[0], timeOfDay(event.t));
    setAttribute(item.children[0], "datetime", new Date(event.t).toISOString());
    setText(item.children[1], glyph);
    setText(item.children[2], event.count > 1 ? `${words} (${event.count}×)` : words);
  });
}

// Connection and pressure over the range: a line where connected, blocks as high as the pressure, marks where something happened.
export class Strip {
  constructor(place) {
    this.picture = place.appendChild(svg("svg", { role: "img" }));
    this.names = this.picture.appendChild(svg("g", { class: "names" }));
    this.levels = this.picture.appendChild(svg("g"));
    this.line = this.picture.appendChild(svg("g"));
    this.marks = this.picture.appendChild(svg("g"));
    new ResizeObserver(() => this.last && this.show(...this.last)).observe(this.picture);
  }

  show(points, events, from, to) {
    this.last = [points, events, from, to];
    const { clientWidth: width, clientHeight: height } = this.picture;
    if (!width) return;
    setAttribute(this.picture, "viewBox", `0 0 ${width} ${height}`);
    const x = (t) => Math.round((MARGIN + (Math.max(t - from, 0) / (to - from)) * (width - MARGIN - 1)) * 10) / 10;
    const ground = height - 16;
    const runs = (same) => {
      const found = [];
      for (const point of points) {
        const begin = x(point.t - point.span_s * 1e3);
        const last = found.at(-1);
        if (last && last.kind === same(point) && begin - last.end < 4) last.end = x(point.t);
        else found.push({ kind: same(point), begin, end: x(point.t) });
      }
      return found;
    };
    const tall = { ok: 3, warn: 11, shed: 20 };
    this.names.replaceChildren(svg("text", { x: 0, y: ground - 14 }, "pressure"), svg("text", { x: 0, y: ground + 4 }, "feed"));
    this.levels.replaceChildren(
      ...runs((point) => point.pressure).map(({ kind, begin, end }) => svg("rect", { class: `pressure ${kind}`, x: begin, width: Math.max(end - begin, 1), y: ground - 9 - tall[kind], height: tall[kind] })),
    );
    this.line.replaceChildren(
      ...runs((point) => (point.connected ? "on" : "off")).map(({ kind, begin, end }) => svg("path", { class: `wire ${kind}`, d: `M${begin} ${ground}H${Math.max(end, begin + 1)}` })),
    );
    const shown = events.filter(({ t }) => t >= from);
    this.marks.replaceChildren(
      ...shown.map(({ t, kind, count: times }) => {
        const [glyph, words] = STORY[kind] ?? ["·", kind];
        const mark = svg("text", { class: `mark ${kind}`, x: Math.min(Math.max(x(t), MARGIN + 4), width - 6), y: ground + 4, "text-anchor": "middle" }, glyph);
        mark.append(svg("title", {}, `${timeOfDay(t)} ${words}${times > 1 ? ` (${times}×)` : ""}`));
        return mark;
      }),
    );
    const away = points.filter((point) => !point.connected).length;
    const full = points.filter((point) => point.pressure === "shed").length;
    setAttribute(this.picture, "aria-label", `Connection and pressure over the range: ${away ? `not always connected in ${away} of ${points.length} stretches` : "connected throughout"}, full in ${full}; ${shown.length} events, listed below`);
  }
}
