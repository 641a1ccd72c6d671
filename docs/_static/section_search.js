/* Ranks the sections of the site for a question, by BM25 over title, titles above and text. */
"use strict";

const sectionSearch = (() => {
  const STOP = new Set(
    ("a about after all also am an and any are as at be been before being but by can could did do does doing for from " +
      "get had has have having he her here him his how i if in into is it its itself just let me more most my no nor " +
      "not of off on once only or other our out over own same she should so some such than that the their them then " +
      "there these they this those to too under until up us very was we were what when where which while who whom why " +
      "will with without would you your use using used want need make happens happen").split(" "),
  );
  // Words that users say for words that the pages say.
  const SAME = {
    latest: "newest", last: "newest", recent: "newest",
    message: "tick", update: "tick",
    jupyter: "notebook", ipython: "notebook",
    backtest: "back-test", backtesting: "back-test",
    multiprocessing: "process", cpu: "process", cores: "process", core: "process",
    miss: "lost", missed: "lost", missing: "lost", lose: "lost", loss: "lost", losing: "lost",
    disconnect: "reconnect", disconnected: "reconnect", disconnects: "reconnect", disconnection: "reconnect",
    quit: "stop", exit: "stop", shutdown: "stop", terminate: "stop",
    crashes: "crash", crashed: "crash", exception: "raise", error: "raise",
    exchange: "venue", broker: "broker",
    speed: "fast", performance: "fast", throughput: "fast",
    stale: "old", delayed: "latency", delay: "latency", lag: "latency", slow: "slow",
    windows: "windows", order: "order", ordering: "order",
  };
  // Pages that answer come before pages that list.
  const PRIOR = [["faq", 1.25], ["how_to/", 1.25], ["api/", 0.7], ["changelog", 0.3], ["contributing", 0.5], ["design", 0.8], ["classic", 0.9]];
  const WEIGHTS = { title: 6, above: 1.5, text: 1 };
  const K1 = 1.2;
  const B = 0.6;
  let sections = [];
  let frequency = new Map();
  let mean = 1;

  const stem = (word) => {
    if (word.length > 5 && word.endsWith("ies")) return word.slice(0, -3) + "y";
    for (const end of ["ing", "ed", "es", "ly", "s"]) {
      if (word.length - end.length >= 3 && word.endsWith(end) && !word.endsWith("ss")) {
        let cut = word.slice(0, -end.length);
        if (/(.)\1$/.test(cut) && !/(ll|ss|zz)$/.test(cut)) cut = cut.slice(0, -1);
        return cut.replace(/e$/, "");
      }
    }
    return word.replace(/e$/, "");
  };
  const words = (text) => {
    const found = [];
    for (const raw of text.toLowerCase().match(/[\p{L}\p{N}_]+(?:-[\p{L}\p{N}_]+)*/gu) || []) {
      const parts = raw.split(/[-_]/).filter(Boolean);
      const all = parts.length > 1 ? [parts.join(""), ...parts] : [raw];
      for (const part of all) if (!STOP.has(part) && (part.length > 1 || /\d/.test(part))) found.push(stem(part));
    }
    return found;
  };
  const asked = (query) => {
    const terms = new Map();
    for (const raw of query.toLowerCase().match(/[\p{L}\p{N}_]+(?:-[\p{L}\p{N}_]+)*/gu) || []) {
      for (const word of words(raw)) terms.set(word, 1);
      if (Object.hasOwn(SAME, raw)) for (const word of words(SAME[raw])) if (!terms.has(word)) terms.set(word, 0.7);
    }
    return terms;
  };
  const count = (map, text, weight) => {
    let length = 0;
    for (const word of words(text)) {
      map.set(word, (map.get(word) || 0) + weight);
      length += 1;
    }
    return length;
  };

  const load = (texts) => {
    sections = texts.map(([address, title, above, text]) => {
      const counts = new Map();
      const length = count(counts, text, WEIGHTS.text);
      count(counts, title, WEIGHTS.title);
      count(counts, above, WEIGHTS.above);
      const prior = (PRIOR.find(([page]) => address.startsWith(page)) || ["", 1])[1];
      return { address, title, above, text, counts, length, prior, titleWords: new Set(words(title)) };
    });
    frequency = new Map();
    for (const { counts } of sections) for (const word of counts.keys()) frequency.set(word, (frequency.get(word) || 0) + 1);
    mean = sections.reduce((sum, { length }) => sum + length, 0) / Math.max(1, sections.length);
  };

  const rank = (query, most = 40) => {
    const terms = asked(query);
    const plain = query.toLowerCase().trim();
    const results = [];
    for (const section of sections) {
      let score = 0;
      let matched = 0;
      for (const [term, weight] of terms) {
        const times = section.counts.get(term);
        if (!times) continue;
        const rare = Math.log(1 + (sections.length - frequency.get(term) + 0.5) / (frequency.get(term) + 0.5));
        const long = 1 - B + (B * Math.max(section.length, 20)) / mean;
        score += (weight * rare * times * (K1 + 1)) / (times + K1 * long);
        matched += weight;
      }
      if (!score) continue;
      const name = section.title.toLowerCase();
      if (name === plain) score *= 3;
      let inTitle = 0;
      for (const word of section.titleWords) if (terms.has(word)) inTitle += 1;
      score *= 1 + (0.5 * inTitle) / Math.max(1, section.titleWords.size);
      score *= Math.sqrt(matched / terms.size) * section.prior;
      results.push({ ...section, score });
    }
    results.sort((one, other) => other.score - one.score || one.address.localeCompare(other.address));
    return results.slice(0, most);
  };

  const excerpt = (text, terms) => {
    const lower = text.split(/(\s+)/);
    let best = 0;
    let most = -1;
    for (let start = 0; start < lower.length; start += 8) {
      const window = lower.slice(start, start + 64).join("");
      const hits = new Set(words(window).filter((word) => terms.has(word))).size;
      if (hits > most) [best, most] = [start, hits];
    }
    const shown = lower.slice(best, best + 64).join("").trim();
    return (best ? "… " : "") + shown + (best + 64 < lower.length ? " …" : "");
  };
  const write = (parent, text, terms) => {
    for (const part of text.split(/([\p{L}\p{N}_-]+)/u)) {
      const found = part && words(part).some((word) => terms.has(word));
      if (found) parent.appendChild(document.createElement("mark")).textContent = part;
      else parent.append(part);
    }
  };
  const show = (query) => {
    const list = document.getElementById("section-search-results");
    const status = document.getElementById("section-search-status");
    list.replaceChildren();
    status.textContent = "";
    if (!query.trim()) return;
    const terms = asked(query);
    const results = rank(query);
    const root = document.documentElement.dataset.content_root || "./";
    for (const { address, title, above, text } of results) {
      const item = list.appendChild(document.createElement("li"));
      const link = item.appendChild(document.createElement("a"));
      link.href = root + address;
      write(link, title, terms);
      if (above) item.appendChild(document.createElement("small")).textContent = above;
      const shown = item.appendChild(document.createElement("p"));
      write(shown, excerpt(text, terms), terms);
    }
    status.textContent = results.length ? "" : "Nothing was found. Fewer or other words may help.";
  };

  const begin = () => {
    const field = document.getElementById("section-search");
    if (!field) return;
    const ask = () => {
      show(field.value);
      const address = new URL(window.location.href);
      address.searchParams.set("q", field.value);
      window.history.replaceState(null, "", address);
    };
    field.value = new URLSearchParams(window.location.search).get("q") || "";
    field.addEventListener("input", ask);
    field.form.addEventListener("submit", (event) => {
      event.preventDefault();
      ask();
    });
    show(field.value);
    field.focus();
  };
  return { load: (texts) => { load(texts); begin(); }, rank };
})();
