// Lines over time: one chart a question, all with one time axis and one cursor, for pointers and for keys.

import { NONE, timeOfDay } from "./format.js";
import { html, setAttribute, setText, svg } from "./svg.js";

const LEFT = 52;
const RIGHT = 8;
const TOP = 8;
const BOTTOM = 20;
const DAY_MS = 864e5;

function niceTop(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 1.5, 2, 3, 4, 5, 6, 8, 10].map((step) => step * power).find((top) => top >= value * 1.0001) ?? value;
}

function linear(values, least, fixedTop) {
  const top = fixedTop ?? niceTop(Math.max(least, ...values));
  const ticks = [0, 0.5, 1].map((part) => part * top);
  return { ticks, place: (value) => 1 - Math.min(value, top) / top };
}

function logarithmic(values, least) {
  const positive = values.filter((value) => value > 0);
  let low = Math.floor(Math.log10(positive.length ? Math.min(...positive) : least));
  const high = Math.max(Math.ceil(Math.log10(positive.length ? Math.max(...positive) : least) + 1e-9), low + 2);
  low = Math.max(low, high - 6);
  const every = high - low > 4 ? 2 : 1;
  const ticks = [];
  for (let exponent = low; exponent <= high; exponent += every) ticks.push(10 ** exponent);
  return { ticks, place: (value) => 1 - (Math.log10(Math.max(value, 10 ** low)) - low) / (high - low) };
}

const STEPS_MS = [5e3, 15e3, 3e4, 6e4, 3e5, 9e5, 18e5, 36e5, 108e5, 216e5];

export function timeTicks(from, to, most) {
  const step = STEPS_MS.find((each) => (to - from) / each <= most) ?? 432e5;
  // Days and hours begin where the clock on the wall says so.
  const zone = new Date(to).getTimezoneOffset() * 6e4;
  const ticks = [];
  for (let t = Math.ceil((from - zone) / step) * step + zone; t <= to; t += step) ticks.push(t);
  return { ticks, withSeconds: step < 6e4 };
}

export class Cursor {
  // The moment that all charts point at; null: now.
  t = null;
  #listeners = [];

  listen(listener) {
    this.#listeners.push(listener);
  }

  move(t) {
    if (t === this.t) return;
    this.t = t;
    for (const listener of this.#listeners) listener();
  }
}

export class Chart {
  // options: {label, series: [{key, name, kind, area, optional}], band: [low, high], log, least, top, format, axis, marks}
  constructor(place, cursor, options) {
    this.options = options;
    this.cursor = cursor;
    this.points = [];
    this.legend = html("ul", { class: "legend" });
    this.values = options.series.map(({ name, kind }) => {
      const value = html("output", {}, NONE);
      const sample = svg("svg", { viewBox: "0 0 22 8", class: "sample", "aria-hidden": "true" }, svg("path", { d: "M1 4h20", class: `line ${kind}` }));
      this.legend.append(html("li", {}, sample, ` ${name} `, value));
      return value;
    });
    this.when = html("span", { class: "when" });
    this.legend.append(html("li", { class: "when-place" }, this.when));
    this.picture = svg("svg", { role: "img", tabindex: "0", "aria-label": options.label });
    this.grid = this.picture.appendChild(svg("g", { class: "grid" }));
    this.areas = this.picture.appendChild(svg("g"));
    this.lines = this.picture.appendChild(svg("g"));
    this.over = this.picture.appendChild(svg("g", { class: "over" }));
    if (options.band) this.band = this.areas.appendChild(svg("path", { class: `band ${options.band.kind}` }));
    this.paths = options.series.map(({ kind, area }) => ({
      area: area ? this.areas.appendChild(svg("path", { class: `area ${kind}` })) : null,
      line: this.lines.appendChild(svg("path", { class: `line ${kind}` })),
    }));
    place.append(this.legend, this.picture);
    new ResizeObserver(() => this.draw()).observe(this.picture);
    this.#listen();
    cursor.listen(() => this.drawCursor());
  }

  #listen() {
    const { picture, cursor } = this;
    picture.addEventListener("pointermove", (event) => {
      const x = event.clientX - picture.getBoundingClientRect().left;
      this.#moveTo(this.from + ((x - LEFT) / this.width) * (this.to - this.from));
    });
    picture.addEventListener("pointerleave", () => cursor.move(null));
    picture.addEventListener("blur", () => cursor.move(null));
    picture.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -Infinity, End: Infinity }[event.key];
      if (event.key === "Escape") cursor.move(null);
      if (step === undefined || !this.points.length) return;
      event.preventDefault();
      const last = this.points.length - 1;
      const at = cursor.t === null ? last + 1 : this.#indexAt(cursor.t);
      cursor.move(this.points[Math.min(Math.max(at + step, 0), last)].t);
      // A place of its own: a state that changes at the same moment must not take the words away.
      document.getElementById("pointed").textContent = this.describe();
    });
  }

  #moveTo(t) {
    if (this.points.length) this.cursor.move(this.points[this.#indexAt(t)].t);
  }

  #indexAt(t) {
    let best = 0;
    this.points.forEach((point, index) => {
      if (Math.abs(point.t - t) < Math.abs(this.points[best].t - t)) best = index;
    });
    return best;
  }

  show(points, from, to) {
    Object.assign(this, { points, from, to });
    this.draw();
  }

  draw() {
    const { clientWidth, clientHeight } = this.picture;
    if (!clientWidth || this.to === undefined) return;
    this.width = clientWidth - LEFT - RIGHT;
    this.height = clientHeight - TOP - BOTTOM;
    setAttribute(this.picture, "viewBox", `0 0 ${clientWidth} ${clientHeight}`);
    const { series, log, least, top } = this.options;
    series.forEach(({ key, optional }, index) => {
      if (optional) this.legend.children[index].hidden = !this.points.some((point) => typeof point[key] === "number");
    });
    const values = this.points.flatMap((point) => series.map(({ key }) => point[key]).filter((value) => value !== null));
    this.scale = log ? logarithmic(values, least) : linear(values, least, top?.());
    this.#drawGrid(clientWidth);
    series.forEach(({ key }, index) => {
      const { line, area } = this.paths[index];
      const runs = this.#runs(key);
      line.setAttribute("d", runs.map((run) => `M${run.map(({ x, y }) => `${x} ${y}`).join("L")}`).join(""));
      const ground = TOP + this.height;
      area?.setAttribute("d", runs.map((run) => `M${run[0].x} ${ground}L${run.map(({ x, y }) => `${x} ${y}`).join("L")}L${run.at(-1).x} ${ground}Z`).join(""));
    });
    if (this.band) this.#drawBand();
    this.drawCursor();
  }

  x(t) {
    return Math.round((LEFT + ((t - this.from) / (this.to - this.from)) * this.width) * 10) / 10;
  }

  y(value) {
    return Math.round((TOP + this.scale.place(value) * this.height) * 10) / 10;
  }

  // Stretches without a hole: nothing is drawn where nothing was measured.
  #runs(key) {
    const runs = [];
    let last = null;
    for (const point of this.points) {
      const value = point[key];
      if (value === null || value === undefined) {
        last = null;
        continue;
      }
      if (last === null || point.t - last > point.span_s * 2500) {
        runs.push([]);
        // A point stands for all of its span, so that one alone can be seen as well.
        runs.at(-1).push({ x: this.x(Math.max(point.t - point.span_s * 1e3, this.from)), y: this.y(value) });
      }
      runs.at(-1).push({ x: this.x(point.t), y: this.y(value) });
      last = point.t;
    }
    return runs;
  }

  #drawBand() {
    const [lows, highs] = [this.#runs(this.options.band.low), this.#runs(this.options.band.high)];
    const path = highs.map((run, index) => `M${run.map(({ x, y }) => `${x} ${y}`).join("L")}L${lows[index].toReversed().map(({ x, y }) => `${x} ${y}`).join("L")}Z`);
    this.band.setAttribute("d", path.join(""));
  }

  #drawGrid(width) {
    const parts = this.scale.ticks.map((tick) => {
      const y = this.y(tick);
      const words = svg("text", { x: LEFT - 8, y: y + 3.5, "text-anchor": "end" }, this.options.axis(tick));
      return [svg("path", { d: `M${LEFT} ${y}H${width - RIGHT}` }), words];
    });
    const { ticks, withSeconds } = timeTicks(this.from, this.to, Math.max(2, Math.floor(this.width / 76)));
    const times = ticks.map((t) => {
      const x = this.x(t);
      if (x > width - 24 || x < LEFT + 14) return [];
      const far = this.to - this.from > DAY_MS;
      return [svg("text", { x, y: TOP + this.height + 15, "text-anchor": "middle" }, timeOfDay(t, withSeconds && !far))];
    });
    this.grid.replaceChildren(...parts.flat(), ...times.flat());
  }

  drawCursor() {
    if (this.to === undefined || !this.scale) return;
    const { cursor, points, options } = this;
    const point = cursor.t === null ? points.at(-1) : points[this.#indexAt(cursor.t)];
    options.series.forEach(({ key }, index) => setText(this.values[index], point ? options.format(point[key]) : NONE));
    setText(this.when, cursor.t === null || !point ? "" : timeOfDay(point.t));
    setAttribute(this.picture, "aria-label", this.describe());
    if (cursor.t === null || !point) {
      this.over.replaceChildren();
      return;
    }
    const x = this.x(point.t);
    const dots = options.series.filter(({ key }) => typeof point[key] === "number").map(({ key, kind }) => svg("circle", { cx: x, cy: this.y(point[key]), r: 3.5, class: `dot ${kind}` }));
    this.over.replaceChildren(svg("path", { d: `M${x} ${TOP}v${this.height}` }), ...dots);
  }

  describe() {
    const shown = this.options.series.map(({ name }, index) => [name, this.values[index].textContent, this.legend.children[index].hidden]);
    const said = shown.filter(([, , hidden]) => !hidden).map(([name, value]) => `${name} ${value}`).join(", ");
    return `${this.options.label}. ${this.when.textContent || "Now"}: ${said}`;
  }
}

// A line without axes, for a figure.
export function spark(picture, values) {
  const { clientWidth: width, clientHeight: height } = picture;
  if (!width) return;
  setAttribute(picture, "viewBox", `0 0 ${width} ${height}`);
  const top = Math.max(...values.map((value) => value ?? 0), 1e-9);
  const step = width / Math.max(values.length - 1, 1);
  const runs = [[]];
  values.forEach((value, index) => {
    if (value === null) runs.push([]);
    else runs.at(-1).push(`${(index * step).toFixed(1)} ${(height - 2 - (value / top) * (height - 5)).toFixed(1)}`);
  });
  const drawn = runs.filter((run) => run.length > 1);
  const area = drawn.map((run) => `M${run[0].split(" ")[0]} ${height}L${run.join("L")}L${run.at(-1).split(" ")[0]} ${height}Z`).join("");
  if (!picture.children.length) picture.append(svg("path", { class: "area" }), svg("path", { class: "line" }));
  picture.children[0].setAttribute("d", area);
  picture.children[1].setAttribute("d", drawn.map((run) => `M${run.join("L")}`).join(""));
}
