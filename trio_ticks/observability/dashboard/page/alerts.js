// What goes wrong in the strategy itself, in a line above the figures: ticks that fail, a loop that stands still.

import { count, ms, rate, seconds, share, timeOfDay } from "./format.js";
import { setText } from "./svg.js";

const BLOCKED_MS = 200;

// The words for what fails now; empty: nothing does. At an ingest what fails is writing.
export function failing({ half, rates_per_s, failures }) {
  if (!rates_per_s.failed) return "";
  const part = share(rates_per_s.failed, rates_per_s.failed + rates_per_s.handled);
  const what = half === "ingest" ? "cannot be written" : "fail";
  const { last } = failures;
  return `${part} of the ticks ${what}, ${rate(rates_per_s.failed)}/s${last ? `: last ${last.error}, of ${last.symbol}, at ${timeOfDay(last.t)}` : ""}`;
}

// The words for handlers that do not return; empty: all do.
export function overdue({ failures }) {
  const late = failures.overdue;
  if (!late) return "";
  const what = late.workers === 1 ? "a handler does" : `${count(late.workers)} handlers do`;
  return `${what} not return: for ${seconds(late.for_s)} so far, of ${late.symbol}: the log shows where it waits`;
}

export function blocked({ loop }) {
  if (loop.delay_ms < BLOCKED_MS) return "";
  return `the event loop stood still for ${ms(loop.delay_ms)}, ${count(loop.blocks)}× since the start: the log shows what blocks it`;
}

export function showAlert(line, words) {
  line.hidden = !words;
  setText(line.querySelector(".word"), words);
}
