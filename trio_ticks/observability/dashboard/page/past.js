// The past in three resolutions, as the server keeps it. A range is drawn from the coarsest that shows it well, its newest end from finer ones.

export class Past {
  constructor() {
    this.clear();
  }

  clear() {
    this.run = null;
    this.tiers = [];
    this.events = [];
  }

  load(history) {
    this.run = history.run;
    this.events = history.events;
    this.tiers = history.tiers.map(({ step_s, most, columns }) => {
      const names = Object.keys(columns);
      const points = (columns.t ?? []).map((_, index) => Object.fromEntries(names.map((name) => [name, columns[name][index]])));
      return { step_s, most, points: points.map(withSums) };
    });
  }

  add({ step_s, point }) {
    const tier = this.tiers.find((each) => each.step_s === step_s);
    // What came while the history was under way may be in it already.
    if (!tier || (tier.points.length && point.t <= tier.points.at(-1).t)) return;
    tier.points.push(withSums(point));
    if (tier.points.length > tier.most) tier.points.shift();
  }

  // When the newest point ended (ms); 0: there is none.
  newest() {
    return Math.max(0, ...this.tiers.map(({ points }) => points.at(-1)?.t ?? 0));
  }

  // The points of the last `range` seconds before `now` (ms), oldest first.
  points(now, range) {
    const from = now - range * 1e3;
    const enough = this.tiers.findIndex(({ step_s, most }) => step_s * most >= range);
    const found = [];
    for (let index = enough < 0 ? this.tiers.length - 1 : enough; index >= 0; index--) {
      const newest = found.length ? found.at(-1).t : from;
      for (const point of this.tiers[index]?.points ?? []) if (point.t > newest) found.push(point);
    }
    return found;
  }
}

const LOSSES = ["overflow", "evicted", "shutdown"];
export const INTENTIONAL = ["conflated", "stale", "held"];
export const REASONS = [...LOSSES, ...INTENTIONAL];

function withSums(point) {
  const sum = (reasons) => reasons.reduce((total, reason) => total + point[`dropped_${reason}`], 0);
  return { ...point, lost: sum(LOSSES), intentional: sum(INTENTIONAL) };
}
