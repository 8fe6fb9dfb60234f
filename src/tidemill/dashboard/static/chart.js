// Draws the charts of a page with uPlot: lines with their intervals, and deploys as upright lines.
const ready = new Promise((done) => {
  if (window.uPlot) return done();
  const here = new URL(".", import.meta.url);
  const style = Object.assign(document.createElement("link"), { rel: "stylesheet", href: new URL("uplot.min.css", here) });
  const script = Object.assign(document.createElement("script"), { src: new URL("uplot.min.js", here) });
  script.addEventListener("load", () => done());
  document.head.append(style, script);
});

const UNITS = {
  share: (v) => `${(v * 100).toFixed(Math.abs(v) < 0.9995 ? 1 : 0).replace(/\.0$/, "")}%`,
  count: (v) => (Math.abs(v) >= 1e6 ? `${+(v / 1e6).toFixed(1)}M` : Math.abs(v) >= 1e4 ? `${+(v / 1e3).toFixed(1)}k` : v.toLocaleString("en")),
  number: (v) => String(+v.toPrecision(4)),
  ms: (v) => `${+v.toPrecision(3)} ms`,
};
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const TONES = { main: "series-1", other: "series-2", good: "good", bad: "bad", unsure: "unsure", muted: "muted" };

/** Columns of uPlot: times, then for each series its values, and its low and high where it has them. */
function columns(spec) {
  const data = [spec.times], series = [{ label: "UTC", value: (_, v) => (v == null ? "–" : exact(v)) }], bands = [];
  for (const one of spec.series) {
    const ink = colour(TONES[one.tone] ?? "series-1");
    const write = (_, v) => (v == null ? "–" : UNITS[spec.unit](v));
    data.push(one.values);
    series.push({ label: one.name, stroke: ink, width: 2, value: write, spanGaps: false, points: { show: spec.times.length < 60, size: 5, fill: ink } });
    if (one.low && one.high) {
      const at = data.length;
      data.push(one.high, one.low);
      const edge = { stroke: "transparent", width: 0, points: { show: false }, value: write };
      series.push({ ...edge, label: `${one.name}, high` }, { ...edge, label: `${one.name}, low` });
      bands.push({ series: [at, at + 1], fill: `color-mix(in srgb, ${ink} 16%, transparent)` });
    }
  }
  return { data, series, bands };
}

const two = (n) => String(n).padStart(2, "0");
const MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split(" ");
const day = (d) => `${d.getUTCDate()} ${MONTHS[d.getUTCMonth()]}`;

/** A time of the axis: its date too where the day is another than that of the one before. */
function clock(seconds, gap, before) {
  const d = new Date(seconds * 1000);
  if (gap >= 86400) return day(d);
  const time = `${two(d.getUTCHours())}:${two(d.getUTCMinutes())}${gap < 60 ? `:${two(d.getUTCSeconds())}` : ""}`;
  return before !== null && day(new Date(before * 1000)) === day(d) ? time : `${time}\n${day(d)}`;
}

const exact = (seconds) => { const d = new Date(seconds * 1000); return `${day(d)} ${two(d.getUTCHours())}:${two(d.getUTCMinutes())}:${two(d.getUTCSeconds())}`; };

/** Upright lines with a word each; a word that would cover the one before it is left out. */
function markers(spec) {
  return { hooks: { draw: [(plot) => {
    const { ctx, bbox } = plot;
    const ratio = devicePixelRatio || 1;
    ctx.save();
    ctx.font = `${11 * ratio}px system-ui, sans-serif`;
    let free = -Infinity;
    for (const one of spec.markers) {
      const x = Math.round(plot.valToPos(one.at, "x", true));
      if (x < bbox.left || x > bbox.left + bbox.width) continue;
      const ink = colour(TONES[one.tone] ?? "muted");
      ctx.strokeStyle = ink; ctx.fillStyle = ink; ctx.lineWidth = ratio;
      ctx.setLineDash([4 * ratio, 3 * ratio]);
      ctx.beginPath(); ctx.moveTo(x, bbox.top); ctx.lineTo(x, bbox.top + bbox.height); ctx.stroke();
      if (x > free) {
        const isLate = x + ctx.measureText(one.text).width + 6 * ratio > bbox.left + bbox.width;
        ctx.textAlign = isLate ? "right" : "left";
        ctx.fillText(one.text, x + (isLate ? -4 : 4) * ratio, bbox.top + 11 * ratio);
        free = isLate ? x : x + ctx.measureText(one.text).width + 10 * ratio;
      }
    }
    ctx.restore();
  }] } };
}

function options(spec, width, { series, bands }) {
  const axis = { stroke: colour("muted"), grid: { stroke: colour("line"), width: 1 }, ticks: { stroke: colour("line"), width: 1 }, font: "11px system-ui, sans-serif" };
  return {
    width, height: spec.height, series, bands, plugins: [markers(spec)],
    tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "UTC"),
    legend: { live: true }, cursor: { points: { size: 7 }, drag: { x: true, y: false } },
    axes: [{ ...axis, values: (_, ticks, __, ___, gap) => ticks.map((at, i) => clock(at, gap, i ? ticks[i - 1] : null)) }, { ...axis, size: 56, values: (_, ticks) => ticks.map((v) => UNITS[spec.unit](v)) }],
    scales: { x: { time: true } },
  };
}

/** Draw one figure, again when it gets another width or the page another theme. */
export async function draw(figure) {
  await ready;
  const spec = JSON.parse(figure.querySelector("script").textContent);
  const place = figure.querySelector(".chart-box");
  let plot = null;
  const paint = () => {
    plot?.destroy();
    const made = columns(spec);
    plot = new uPlot(options(spec, Math.max(place.clientWidth, 160), made), made.data, place);
    hideEdges(plot);
    tellLast(plot, spec);
  };
  paint();
  new ResizeObserver(() => { if (plot && Math.abs(plot.width - place.clientWidth) > 1) plot.setSize({ width: place.clientWidth, height: spec.height }); }).observe(place);
  const again = () => (figure.isConnected ? paint() : document.removeEventListener("tidemill:theme", again));
  document.addEventListener("tidemill:theme", again);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
}

/** The edges of a band are no entries of the legend. */
function hideEdges(plot) {
  plot.series.forEach((one, i) => { if (/, (high|low)$/.test(one.label ?? "")) plot.root.querySelectorAll(".u-series")[i]?.classList.add("u-hidden"); });
}

/** Until somebody points at it, the legend tells the newest values. */
function tellLast(plot, spec) {
  let at = spec.times.length - 1;
  while (at > 0 && spec.series.every((one) => one.values[at] == null)) at -= 1;
  const tell = () => plot.setLegend({ idx: at });
  requestAnimationFrame(tell);
  plot.over.addEventListener("mouseleave", () => requestAnimationFrame(tell));
}
