// How numbers are written on the page. The same value always gives the same text.

const whole = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
const tenth = new Intl.NumberFormat("en-US", { minimumFractionDigits: 1, maximumFractionDigits: 1 });

const short = new Intl.NumberFormat("en-US", { notation: "compact", maximumFractionDigits: 1 });

export const NONE = "–";

function digits(value) {
  // Three digits that mean something, no exponent.
  if (value >= 100) return whole.format(value);
  if (value >= 10) return value.toFixed(1);
  return value.toFixed(2);
}

export function ms(value) {
  if (value === null || value === undefined) return NONE;
  if (value < 0) return `−${ms(-value)}`;
  if (value === 0) return "0 ms";
  if (value < 0.9995) return `${value * 1e3 < 9.95 ? (value * 1e3).toFixed(1) : whole.format(value * 1e3)} µs`;
  if (value < 999.5) return `${digits(value)} ms`;
  if (value < 99_950) return `${digits(value / 1e3)} s`;
  if (value < 5.97e6) return `${whole.format(value / 6e4)} min`;
  if (value < 3.56e8) return `${whole.format(value / 36e5)} h`;
  return `${whole.format(value / 864e5)} days`;
}

export function clock(seconds) {
  const total = Math.floor(seconds);
  const [days, hours, minutes] = [Math.floor(total / 86400), Math.floor(total / 3600) % 24, Math.floor(total / 60) % 60];
  const two = (number) => String(number).padStart(2, "0");
  const rest = `${two(minutes)}:${two(total % 60)}`;
  if (days) return `${days} d ${two(hours)}:${rest}`;
  return total >= 3600 ? `${hours}:${rest}` : `${minutes}:${two(total % 60)}`;
}

export const rate = (value) => (value === null || value === undefined ? NONE : value < 99.95 && value !== Math.round(value) ? tenth.format(value) : whole.format(value));
export const count = (value) => (value === null || value === undefined ? NONE : whole.format(value));
export const compact = (value) => short.format(value);
export const seconds = (value) => (value < 100 ? `${tenth.format(value)} s` : clock(value));
export const text = (value) => String(value);
export const share = (part, total) => {
  if (!total) return NONE;
  const percent = (100 * part) / total;
  if (part && percent < 0.1) return "<0.1 %";
  // What is not all never says so.
  return part < total && percent > 99.9 ? ">99.9 %" : `${tenth.format(percent)} %`;
};

export const timeOfDay = (t, withSeconds = true) =>
  new Date(t).toLocaleTimeString("en-GB", withSeconds ? undefined : { hour: "2-digit", minute: "2-digit" });

export const FORMATS = { ms, clock, rate, count, seconds, text };
