// The ledger as a flow: a band from what was received to each of its outcomes, as thick as its share.

import { INTENTIONAL, REASONS } from "./past.js";
import { compact, count, rate, share } from "./format.js";
import { setAttribute, setText, svg } from "./svg.js";

const GAP = 10;
const LINE = 34;
const NODE = 10;
const THIN = 1.5;
const LETTER = 7.9;

// Half pixels do for the eye, and most looks then change nothing that would have to be painted again.
const half = (number) => Math.round(number * 2) / 2;

export function outcomes({ half, ledger, rates_per_s }) {
  const ingest = half === "ingest";
  const drops = REASONS.filter((reason) => ledger.dropped_by_reason[reason] > 0);
  const dropKind = (reason) => (INTENTIONAL.includes(reason) ? "intentional" : "lost");
  const told = { lost: "lost", intentional: "on purpose" };
  return [
    { key: "handled", name: ingest ? "appended" : "handled", kind: "handled", value: ledger.handled, note: `${rate(rates_per_s.handled)}/s` },
    { key: "in_flight", name: ingest ? "in doubt" : "in flight", kind: "flying", value: ledger.in_flight, note: "now" },
    { key: "queued", name: "queued", kind: "queued", value: ledger.queued, note: "now" },
    ...(ledger.failed ? [{ key: "failed", name: "failed", kind: "failed", value: ledger.failed, note: `${rate(rates_per_s.failed)}/s` }] : []),
    ...(ledger.given_back ? [{ key: "given_back", name: "given back", kind: "returned", value: ledger.given_back, note: "to the buffer" }] : []),
    ...drops
      .map((reason) => ({ key: reason, name: reason, kind: dropKind(reason), value: ledger.dropped_by_reason[reason], note: told[dropKind(reason)] }))
      .sort((a, b) => (a.kind === b.kind ? 0 : a.kind === "intentional" ? -1 : 1)),
  ];
}

export class Flow {
  constructor(picture, words) {
    this.picture = picture;
    this.words = words;
    this.source = picture.appendChild(svg("g", { class: "source" }, svg("rect", { class: "node received", x: 0, rx: 2, width: NODE })));
    this.names = picture.appendChild(svg("g"));
    this.rows = picture.appendChild(svg("g"));
    this.key = "";
    new ResizeObserver(() => this.last && this.show(this.last)).observe(picture);
  }

  #build(all) {
    const key = all.map(({ key }) => key).join();
    if (key === this.key) return;
    this.key = key;
    this.rows.replaceChildren(
      ...all.map(({ kind }) =>
        svg("g", { class: `outcome ${kind}` }, svg("path", { class: `ribbon ${kind}` }), svg("rect", { class: `node ${kind}`, rx: 2, width: NODE }), svg("text", { class: "name" }), svg("text", { class: "value" })),
      ),
    );
    this.names.replaceChildren(svg("text", { class: "name" }), svg("text", { class: "value" }), svg("text", { class: "value" }));
  }

  show(snapshot) {
    this.last = snapshot;
    const all = outcomes(snapshot);
    this.#build(all);
    const { received } = snapshot.ledger;
    const width = this.picture.clientWidth;
    if (!width) return;
    const narrow = width < 520;
    const short = (value) => (narrow && value >= 1e8 ? compact(value) : count(value));
    const words = (outcome) => [short(outcome.value), ...(outcome.value ? [share(outcome.value, received)] : []), ...(narrow ? [] : [outcome.note])].join(" · ");
    // Words of any length have their room: a count grows for as long as the run lasts.
    const room = (texts) => Math.max(...texts.map((text) => text.length)) * LETTER + NODE + 12;
    const left = room([short(received), "received"]);
    const right = Math.max(width - room(all.map(words)), left + 40);
    const height = Math.max(this.picture.clientHeight, all.length * (LINE + GAP));
    setAttribute(this.picture, "viewBox", `0 0 ${width} ${height}`);
    setAttribute(this.picture, "height", height);

    // Every outcome has room for its words; what room is left is shared out by size.
    const free = height - GAP * (all.length - 1) - 10;
    const thick = this.#share(all, received, free).map(half);
    const total = thick.reduce((sum, each) => sum + each, 0);
    const slots = thick.map((each) => Math.max(each, LINE));
    const spare = Math.max(0, free - slots.reduce((sum, each) => sum + each, 0));
    let y = 2;
    let from = half(Math.max(2, (height - total) / 2));
    setAttribute(this.source.firstChild, "x", left - NODE);
    setAttribute(this.source.firstChild, "y", from);
    setAttribute(this.source.firstChild, "height", Math.max(total, 2));
    this.#label(this.names, left - NODE - 10, height / 2 - 8, "received", [short(received), `${rate(snapshot.rates_per_s.received)}/s`], "end");

    all.forEach((outcome, index) => {
      const [ribbon, node, name, value] = this.rows.children[index].children;
      const slot = slots[index] + spare / all.length;
      const to = half(y + (slot - thick[index]) / 2);
      const middle = (left + right) / 2;
      const size = thick[index];
      const curve = (a, b, x0, x1) => `C${middle} ${a} ${middle} ${b} ${x1} ${b}`;
      setAttribute(ribbon, "d", size ? `M${left} ${from}${curve(from, to, left, right)}V${to + size}${curve(to + size, from + size, right, left)}Z` : `M${left} ${from}${curve(from, to, left, right)}`);
      this.rows.children[index].classList.toggle("none", !size);
      setAttribute(node, "x", right);
      setAttribute(node, "y", size ? to : to - 1);
      setAttribute(node, "height", Math.max(size, 2));
      const text = half(y + slot / 2);
      setAttribute(name, "x", right + NODE + 10);
      setAttribute(name, "y", text - 3);
      setText(name, outcome.name);
      setAttribute(value, "x", right + NODE + 10);
      setAttribute(value, "y", text + 14);
      setText(value, words(outcome));
      y += slot + GAP;
      from += size;
    });
    const said = all.map(({ name, value, note }) => `${name} ${count(value)}, ${share(value, received)}${INTENTIONAL.includes(name) || REASONS.includes(name) ? ` (${note})` : ""}`);
    setText(this.words, `Received ${count(received)} ticks: ${said.join("; ")}.`);
  }

  // How thick each band is: in proportion, but nothing that there is vanishes.
  #share(all, received, free) {
    if (!received) return all.map(() => 0);
    const small = all.map(({ value }) => value > 0 && (value / received) * free < THIN);
    // Those that are small take more room than their share, so that the others leave a little of theirs; and words need room, too.
    const needed = all.reduce((sum, { value }) => sum + Math.max(0, LINE - (value / received) * free), 0);
    const room = Math.max(free - needed, free * 0.3);
    return all.map(({ value }, index) => (small[index] ? THIN : (value / received) * room));
  }

  #label(group, x, y, name, values, anchor) {
    [name, ...values].forEach((words, index) => {
      const text = group.children[index];
      setText(text, words);
      setAttribute(text, "x", x);
      setAttribute(text, "y", y + index * 17);
      setAttribute(text, "text-anchor", anchor);
    });
  }
}
