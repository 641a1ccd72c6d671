// What is told to those who listen instead of looking: how states changed. A state that comes and goes is not read out four times a second.

const QUIET_MS = 5000;

export class News {
  #known = new Map();
  #waiting = new Map();
  #quiet = false;

  // `later(callback, milliseconds)` is setTimeout, or a test's.
  constructor(place, later = (callback, milliseconds) => setTimeout(callback, milliseconds)) {
    this.place = place;
    this.later = later;
  }

  // Note that the state called `name` is now `word`; the first one is no news.
  note(name, word) {
    if (!this.#known.has(name)) this.#known.set(name, word);
    // What is again as it was told to be need not be told.
    if (this.#known.get(name) === word) this.#waiting.delete(name);
    else this.#waiting.set(name, word);
    if (!this.#quiet) this.#tell();
  }

  #tell() {
    this.#quiet = this.#waiting.size > 0;
    if (!this.#quiet) return;
    this.place.textContent = [...this.#waiting.values()].join(", ");
    for (const [name, word] of this.#waiting) this.#known.set(name, word);
    this.#waiting.clear();
    this.later(() => this.#tell(), QUIET_MS);
  }
}
