// The buffer between processes, the half of the ingest beside the workers, and the feeds, a row each.

import { NONE, count, ms, rate, seconds } from "./format.js";
import { html, setAttribute, setText, sync } from "./svg.js";

const known = (value, format) => (value === null || value === undefined ? NONE : format(value));
const time = (value) => known(value, (each) => ms(each * 1e3));

// Name, text, mood ("bad" and "warn" have a colour and a glyph), and what the name means.
function ofIngest(buffer) {
  return [
    ["in doubt", count(buffer.in_doubt), !buffer.connected && buffer.in_doubt ? "warn" : "", "sent to the broker and not confirmed yet"],
    ["full for", seconds(buffer.full_s), buffer.full_s ? "warn" : "", "how long the broker had no room"],
    ["sent again", count(buffer.duplicates), "", "after a lost answer, and recognised by the broker"],
  ];
}

function ofWork(buffer) {
  const dead = buffer.dead + buffer.junk;
  return [
    ["unacknowledged", count(buffer.unacknowledged), "", "received, and neither acknowledged nor given back"],
    ["redelivered", count(buffer.redelivered), buffer.redelivered ? "warn" : "", "may have been handled before: after a crash, for example"],
    ["given back", count(buffer.given_back), "", "went back to the broker unhandled"],
    ["shards", count(buffer.shards), buffer.shards ? "" : "warn", `held by this process; ${count(buffer.takeovers)} taken over, ${count(buffer.fenced)} lost to others`],
    ["dead letters", count(dead), dead ? "bad" : "", `${count(buffer.dead)} ticks at which the process died again and again, ${count(buffer.junk)} entries that could not be read`],
  ];
}

function facts({ half, buffer, ingest }) {
  const shown = [
    ["lag", known(buffer.lag, count), "", "ticks in the broker that nobody has acknowledged"],
    ["oldest of them", time(buffer.lag_s), "", "how long it has been in the broker"],
    ...(half === "ingest" ? ofIngest(buffer) : ofWork(buffer)),
    ["round trip", time(buffer.round_trip_s), "", "how long the broker took for its last answer"],
    ["reconnects", count(buffer.reconnects), buffer.reconnects ? "warn" : "", "connections to the broker after the first one"],
  ];
  if (buffer.clock_difference_s !== null) shown.push(["clocks differ", `${time(buffer.clock_difference_s)} ± ${time(buffer.clock_error_s)}`, "", "our clock less that by which both are compared"]);
  if (!ingest) return shown;
  const { ledger, queue } = ingest;
  return [
    ...shown,
    ["ingest: queue", `${count(queue.size)} of ${count(queue.capacity)}`, queue.size >= queue.capacity ? "bad" : "", "ticks that wait for the broker"],
    ["ingest: lost", count(ledger.lost), ledger.lost ? "bad" : "", "ticks that the ingest had to drop"],
    ["ingest: skipped", count(ledger.intentional), "", "ticks that the ingest dropped on purpose"],
    ...ofIngest(ingest.buffer).map(([name, ...rest]) => [`ingest: ${name}`, ...rest]),
    ["ingest: ledger", ledger.holds ? "OK" : "BROKEN", ledger.holds ? "" : "bad", "whether every tick of the ingest is accounted for"],
  ];
}

const MOODS = { bad: "✕", warn: "▲" };

export function showBuffer(card, snapshot) {
  const { buffer } = snapshot;
  card.hidden = !buffer;
  if (!buffer) return;
  // A paused work has left: nobody knows whether the broker is there.
  const left = !buffer.connected && snapshot.half === "work" && snapshot.state === "paused";
  const away = !buffer.connected && !left;
  setAttribute(card, "class", away ? "card buffer away" : "card buffer");
  const chip = card.querySelector(".chip");
  const [glyph, word, mood] = left ? ["‖", "given back", "warn"] : away ? ["×", "broker away", "bad"] : ["●", "broker connected", "good"];
  setAttribute(chip, "class", `chip ${mood}`);
  setText(chip.firstElementChild, glyph);
  setText(chip.lastElementChild, word);
  const [gauge, note] = [card.querySelector(".gauge"), card.querySelector("small")];
  const part = buffer.used !== null && buffer.maxsize ? buffer.used / buffer.maxsize : null;
  gauge.hidden = part === null;
  const fill = part === null ? "" : `, ${(100 * part).toFixed(1)} % full`;
  setText(note, buffer.used === null ? "" : `${count(buffer.used)}${buffer.maxsize ? ` of ${count(buffer.maxsize)}` : ""} ticks${fill}`);
  if (part !== null) {
    gauge.style.setProperty("--part", `${Math.min(100, 100 * part).toFixed(1)}%`);
    setAttribute(gauge, "class", part >= 1 ? "gauge shed" : "gauge");
    setAttribute(gauge, "aria-valuemax", buffer.maxsize);
    setAttribute(gauge, "aria-valuenow", buffer.used);
    setAttribute(gauge, "aria-valuetext", `${count(buffer.used)} of ${count(buffer.maxsize)}`);
  }
  const make = () => html("div", {}, html("dt"), html("dd"));
  sync(card.querySelector("dl"), facts(snapshot), make, (cell, [name, text, mood, title]) => {
    setAttribute(cell, "class", text.length > 11 ? `${mood} wide` : mood);
    setAttribute(cell, "title", title);
    setText(cell.firstChild, name);
    setText(cell.lastChild, mood ? `${MOODS[mood]} ${text}` : text);
  });
}

export function showFeeds(list, feeds) {
  list.hidden = !feeds.length;
  const make = () => html("li", {}, ...["glyph", "name", "what"].map((name) => html("span", { class: name })));
  sync(list, feeds, make, (item, feed) => {
    const [glyph, name, what] = item.children;
    const words = [
      feed.connected ? "" : feed.market_open ? "not connected" : "market closed",
      `${count(feed.messages)} messages`,
      feed.malformed ? `${count(feed.malformed)} malformed` : "",
      feed.reconnects ? `${rate(feed.reconnects)} reconnects` : "",
      feed.silent_symbols ? `${count(feed.silent_symbols)} silent` : "",
    ];
    setAttribute(item, "class", feed.connected ? "on" : feed.market_open ? "off" : "closed");
    setText(glyph, feed.connected ? "●" : feed.market_open ? "×" : "○");
    setText(name, feed.name);
    setAttribute(name, "title", feed.name);
    setText(what, words.filter(Boolean).join(" · "));
  });
}
