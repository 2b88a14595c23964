"use strict";
const root = document.documentElement;
const charts = JSON.parse(document.getElementById("charts").textContent);

/* ---- theme: the colours of the page are those of the charts, which name them as var(--name) ---- */
const preferred = matchMedia("(prefers-color-scheme: dark)");
function setTheme(name) {
  root.dataset.theme = name;
  document.getElementById("theme").textContent = name === "dark" ? "Light colours" : "Dark colours";
}
const probe = document.body.appendChild(document.createElement("i"));
function themed(value) {
  if (typeof value === "string" && value.startsWith("var(")) {
    probe.style.color = value; // resolves light-dark()
    return getComputedStyle(probe).color;
  }
  if (Array.isArray(value)) return value.map(themed);
  if (value && typeof value === "object") return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, themed(each)]));
  return value;
}
const axis = {
  tickangle: 0, gridcolor: "var(--line)", linecolor: "var(--line)", zerolinecolor: "var(--line)", tickfont: { size: 12 },
  title: { font: { size: 12, color: "var(--quiet)" }, standoff: 8 },
};
/* Margins are computed here, once. Plotly's own (automargin) change the ticks, which change the margins, and in a narrow
   window that may never settle. */
const family = getComputedStyle(document.body).fontFamily;
const ruler = document.createElement("canvas").getContext("2d");
function widthOf(text) {
  ruler.font = `12px ${family}`;
  return ruler.measureText(text).width;
}
function shortened(name, most) {
  if (widthOf(name) <= most) return name;
  let end = name.length;
  while (end > 1 && widthOf(name.slice(0, end) + "…") > most) end--;
  return name.slice(0, end).trimEnd() + "…";
}
// Plotly reads some tags in its texts.
const escaped = text => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
function layoutOf(chart, width) {
  const layout = {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", height: 320, showlegend: false,
    hovermode: "closest", dragmode: false, font: { family, size: 12, color: "var(--ink)" },
    hoverlabel: { bgcolor: "var(--panel)", bordercolor: "var(--quiet)", font: { color: "var(--ink)", size: 13 }, align: "left" },
    ...chart.layout,
  };
  const margin = { l: 48, r: 24, t: 10, b: 28, autoexpand: false };
  for (const name of ["xaxis", "yaxis"]) {
    const { names, ...own } = layout[name] || {};
    if (own.title) margin[name === "yaxis" ? "l" : "b"] += 20;
    if (names) {
      const shown = names.map(each => shortened(each, Math.min(width * 0.45, 200)));
      const longest = Math.max(...shown.map(widthOf));
      Object.assign(own, { tickmode: "array", tickvals: names.map((_, i) => i), ticktext: shown.map(escaped) });
      if (name === "yaxis") margin.l = longest + 12;
      // The names above a matrix rise at 40 degrees.
      else Object.assign(margin, { t: longest * 0.65 + 20, r: Math.max(24, longest * 0.77), b: 12 });
    }
    layout[name] = { ...axis, ...own, title: { ...axis.title, text: own.title || "" } };
  }
  return themed({ ...layout, margin });
}

/* ---- labels of points: beside each point where there is room, else farther away with a line to it ---- */
function placeLabels(element, chart) {
  const { xaxis, yaxis } = element._fullLayout;
  const size = 12, width = xaxis._length, height = yaxis._length;
  const points = chart.traces
    .filter((_, i) => element.data[i].visible !== "legendonly" && element.data[i].visible !== false)
    .map(trace => ({ x: xaxis.d2p(trace.x[0]), y: yaxis.d2p(trace.y[0]), trace, w: widthOf(trace.name) + 4, h: size + 3 }));
  const taken = points.map(p => [p.x - 6, p.y - 6, p.x + 6, p.y + 6]);
  const overlap = (a, b) => Math.max(0, Math.min(a[2], b[2]) - Math.max(a[0], b[0])) * Math.max(0, Math.min(a[3], b[3]) - Math.max(a[1], b[1]));
  // How many boxes a line to a far label would cross.
  const crossed = (p, x, y) => taken.filter(box => [1, 2, 3, 4, 5, 6, 7].some(i => {
    const u = p.x + (x - p.x) * i / 8, v = p.y + (y - p.y) * i / 8;
    return box[0] < u && u < box[2] && box[1] < v && v < box[3] && Math.hypot(u - p.x, v - p.y) > 9;
  })).length;
  const annotations = [];
  for (const p of points.sort((a, b) => a.y - b.y)) {
    let best = null;
    for (const far of [0, 14, 28, 44, 62, 82]) {
      for (let turn = 0; turn < 16; turn++) {
        const angle = turn * Math.PI / 8, c = Math.cos(angle), s = Math.sin(angle);
        const x = p.x + c * (9 + far + p.w / 2), y = p.y + s * (8 + far + p.h / 2);
        const box = [x - p.w / 2, y - p.h / 2, x + p.w / 2, y + p.h / 2];
        const outside = Math.max(0, -box[0]) + Math.max(0, box[2] - width) + Math.max(0, -box[1]) + Math.max(0, box[3] - height);
        const cost = taken.reduce((sum, each) => sum + overlap(box, each), 0) * 10 + outside * 200 + (far && crossed(p, x, y) * 150) + far + Math.abs(s) * 4 + (c < 0) * 2;
        if (!best || cost < best.cost) best = { cost, x, y, box, far };
      }
    }
    taken.push(best.box);
    // Annotations on a logarithmic axis are placed by the logarithm.
    annotations.push({
      x: xaxis.type === "log" ? Math.log10(p.trace.x[0]) : p.trace.x[0], y: p.trace.y[0], text: p.trace.meta, font: { size, color: themed("var(--ink)") },
      ax: best.x - p.x, ay: best.y - p.y, showarrow: true, arrowhead: 0, arrowwidth: best.far > 0 ? 1 : 0.01,
      arrowcolor: best.far > 0 ? themed("var(--quiet)") : "rgba(0,0,0,0)", standoff: 6, borderpad: 0, captureevents: false,
    });
  }
  return Plotly.relayout(element, { annotations });
}

async function draw(chart) {
  const element = document.getElementById(chart.id);
  const layout = layoutOf(chart, element.clientWidth);
  const hidden = new Set((element.data || []).filter(trace => trace.visible === "legendonly").map(trace => trace.name));
  const traces = themed(chart.traces).map(trace => hidden.has(trace.name) ? { ...trace, visible: "legendonly" } : trace);
  await Plotly.react(element, traces, layout, { displaylogo: false, displayModeBar: false, scrollZoom: false });
  if (chart.labelled) await placeLabels(element, chart);
}
async function drawAll() {
  // One after another, so that the page can be read meanwhile.
  for (const chart of charts) {
    await draw(chart);
    await new Promise(resolve => setTimeout(resolve));
  }
  root.dataset.drawn = charts.length;
}

/* ---- legends: a click hides a row of the table in all charts of its section ---- */
for (const button of document.querySelectorAll(".legend button")) {
  button.addEventListener("click", () => {
    const shown = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", shown);
    for (const chart of charts) {
      const element = document.getElementById(chart.id);
      if (!button.closest("section").contains(element)) continue;
      const which = chart.traces.flatMap((trace, i) => trace.name === button.dataset.label ? [i] : []);
      if (which.length) Plotly.restyle(element, { visible: shown ? true : "legendonly" }, which);
    }
  });
}

{% include "tables.js" %}

document.getElementById("theme").addEventListener("click", () => {
  setTheme(root.dataset.theme === "dark" ? "light" : "dark");
  drawAll();
});
preferred.addEventListener("change", () => { setTheme(preferred.matches ? "dark" : "light"); drawAll(); });
/* ---- widths: each chart follows the box it is in ---- */
const widths = new Map();
const watcher = new ResizeObserver(entries => {
  for (const { target, contentRect } of entries) {
    const chart = charts.find(each => each.id === target.firstElementChild.id);
    const before = widths.get(chart.id);
    widths.set(chart.id, contentRect.width);
    if (before === contentRect.width || !target.firstElementChild.data) continue;
    draw(chart);
  }
});
document.querySelectorAll(".pan").forEach(each => watcher.observe(each));

// Paper has light colours, all charts, and the commands.
let dark = false;
window.addEventListener("beforeprint", () => {
  dark = root.dataset.theme === "dark";
  if (dark) setTheme("light");
  charts.filter(chart => dark || !document.getElementById(chart.id).data).forEach(draw);
  document.querySelectorAll("details").forEach(each => { each.open = true; });
});
window.addEventListener("afterprint", () => {
  if (!dark) return;
  setTheme("dark");
  drawAll();
});

setTheme(preferred.matches ? "dark" : "light");
drawAll();
