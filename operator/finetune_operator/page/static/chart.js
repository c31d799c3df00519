// Line charts as SVG, drawn to the width that there is, with the numbers beside them for whoever cannot see them.

import { el, svg } from "./dom.js";

const HEIGHT = 220;
const MARGIN = { top: 12, right: 14, bottom: 28, left: 56 };

export function chart(found) {
  const figure = el("figure", { class: "chart" });
  const readout = el("p", { class: "readout", "aria-live": "polite" }, summary(found));
  const canvas = el("div", { class: "canvas" });
  figure.append(
    el("figcaption", {}, el("h2", {}, found.title, found.unit && el("span", { class: "note" }, ` ${found.unit}`)),
      el("ul", { class: "legend" }, found.lines.length > 1 && found.lines.map((line, i) =>
        el("li", {}, el("span", { class: "swatch", "data-line": i + 1 }), line.name)))),
    canvas, readout, numbers(found));
  // The width is known only once it is on the page, and changes with the window.
  new ResizeObserver(() => draw(canvas, readout, found)).observe(canvas);
  return figure;
}

function draw(canvas, readout, found) {
  const width = Math.max(240, canvas.clientWidth);
  if (canvas.dataset.width === String(width)) return;
  canvas.dataset.width = width;
  const points = found.lines.flatMap((line) => line.points).filter(([, y]) => y !== null);
  const right = Math.max(1, found.lastStep ?? 0, ...points.map(([x]) => x));
  const ys = points.map(([, y]) => y);
  const ticks = niceTicks(Math.min(...ys), Math.max(...ys));
  const [low, high] = [ticks[0], ticks.at(-1)];
  const x = (step) => MARGIN.left + (step / right) * (width - MARGIN.left - MARGIN.right);
  const y = (value) => HEIGHT - MARGIN.bottom - ((value - low) / (high - low)) * (HEIGHT - MARGIN.top - MARGIN.bottom);
  const cursor = svg("line", { class: "cursor", y1: MARGIN.top, y2: HEIGHT - MARGIN.bottom, visibility: "hidden" });
  const dots = found.lines.map((_, i) =>
    svg("circle", { class: "dot", "data-line": i + 1, r: 4, visibility: "hidden" }));
  const attributes = {
    viewBox: `0 0 ${width} ${HEIGHT}`,
    width,
    height: HEIGHT,
    role: "img",
    tabindex: "0",
    "aria-label": `${found.title}: ${summary(found)}. Arrow keys read single points.`,
  };
  const drawing = svg("svg", attributes,
    ticks.map((tick) => [
      svg("line", { class: "grid", x1: MARGIN.left, x2: width - MARGIN.right, y1: y(tick), y2: y(tick) }),
      svg("text", { class: "tick", x: MARGIN.left - 8, y: y(tick), dy: "0.32em", "text-anchor": "end" }, short(tick)),
    ]).flat(),
    stepTicks(right, width).map((tick) =>
      svg("text", { class: "tick", x: x(tick), y: HEIGHT - 8, "text-anchor": "middle" }, tick.toLocaleString("en"))),
    found.lines.map((line, i) => [
      svg("path", { class: "line", "data-line": i + 1, d: path(line.points, x, y) }),
      ...line.points.filter((point, j) => point[1] !== null && (line.marks || isAlone(line.points, j)))
        .map(([step, value]) => svg("circle", { class: "point", "data-line": i + 1, cx: x(step), cy: y(value), r: 3 })),
    ]).flat(),
    cursor, dots);
  const steps = [...new Set(points.map(([step]) => step))].sort((a, b) => a - b);
  let at = -1;

  function point(index) {
    at = Math.max(0, Math.min(steps.length - 1, index));
    const step = steps[at];
    cursor.setAttribute("x1", x(step));
    cursor.setAttribute("x2", x(step));
    cursor.setAttribute("visibility", "visible");
    const said = [];
    found.lines.forEach((line, i) => {
      const value = line.points.find(([s, v]) => s === step && v !== null)?.[1];
      dots[i].setAttribute("visibility", value === undefined ? "hidden" : "visible");
      if (value === undefined) return;
      dots[i].setAttribute("cx", x(step));
      dots[i].setAttribute("cy", y(value));
      said.push(`${line.name} ${full(value)}`);
    });
    readout.textContent = `step ${step.toLocaleString("en")}: ${said.join(", ")}`;
  }

  function leave() {
    at = -1;
    for (const node of [cursor, ...dots]) node.setAttribute("visibility", "hidden");
    readout.textContent = summary(found);
  }

  drawing.addEventListener("pointermove", (event) => {
    const step = ((event.offsetX - MARGIN.left) / (width - MARGIN.left - MARGIN.right)) * right;
    point(steps.reduce((best, each, i) => (Math.abs(each - step) < Math.abs(steps[best] - step) ? i : best), 0));
  });
  drawing.addEventListener("pointerleave", leave);
  drawing.addEventListener("blur", leave);
  drawing.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: steps.length - 1 };
    if (!(event.key in moves)) return;
    event.preventDefault();
    point(at < 0 && event.key === "ArrowLeft" ? steps.length - 1 : moves[event.key]);
  });
  canvas.replaceChildren(drawing);
}

// A small curve without axes; of a job that has none, an empty place.
export function sparkline(values) {
  const [width, height] = [96, 28];
  const known = values.filter((value) => value !== null);
  const attributes = { class: "spark", viewBox: `0 0 ${width} ${height}`, width, height, "aria-hidden": "true" };
  const drawing = svg("svg", attributes);
  if (known.length < 2) return drawing;
  const [low, high] = [Math.min(...known), Math.max(...known)];
  const x = (i) => 2 + (i / (values.length - 1)) * (width - 4);
  const y = (value) => height - 3 - ((value - low) / (high - low || 1)) * (height - 6);
  drawing.append(svg("path", { class: "line", "data-line": 1, d: path(values.map((value, i) => [i, value]), x, y) }));
  return drawing;
}

function path(points, x, y) {
  let pen = "M";
  return points.map(([step, value]) => {
    // What was not finite is a gap.
    const part = value === null ? "" : `${pen}${x(step).toFixed(1)},${y(value).toFixed(1)}`;
    pen = value === null ? "M" : "L";
    return part;
  }).join("");
}

function isAlone(points, i) {
  return (points[i - 1]?.[1] ?? null) === null && (points[i + 1]?.[1] ?? null) === null;
}

function numbers(found) {
  const steps = [...new Set(found.lines.flatMap((line) => line.points.map(([step]) => step)))].sort((a, b) => a - b);
  const rows = steps.map((step) => el("tr", {}, el("th", { scope: "row" }, String(step)), found.lines.map((line) => {
    const value = line.points.find(([s]) => s === step)?.[1] ?? null;
    return el("td", { class: "number" }, value === null ? "–" : full(value));
  })));
  const names = found.lines.map((line) => el("th", { scope: "col", class: "number" }, line.name));
  return el("details", { class: "numbers", "data-key": `numbers-${found.title}` },
    el("summary", {}, "Numbers"),
    el("table", {},
      el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Step"), names)),
      el("tbody", {}, rows)));
}

function summary(found) {
  return found.lines.map((line) => {
    const known = line.points.filter(([, value]) => value !== null);
    const [first, last] = [known[0], known.at(-1)];
    return known.length < 2 ? `${line.name} ${full(last[1])}` : `${line.name} ${full(first[1])} → ${full(last[1])}`;
  }).join(", ");
}

// Round numbers from at or below the least to at or above the most.
function niceTicks(least, most) {
  const range = most - least || Math.abs(most) || 1;
  const rough = range / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 2.5, 5, 10].find((factor) => power * factor >= rough);
  const [low, high] = [Math.floor(least / step), Math.ceil(most / step)];
  const count = Math.max(1, high - low);
  return Array.from({ length: count + 1 }, (_, i) => (low + i) * step);
}

function stepTicks(right, width) {
  const most = Math.max(2, Math.floor(width / 110));
  const power = 10 ** Math.floor(Math.log10(right / most));
  const step = Math.max(1, power * [1, 2, 5, 10].find((factor) => right / (power * factor) <= most));
  return Array.from({ length: Math.floor(right / step) + 1 }, (_, i) => i * step);
}

function full(value) {
  if (Math.abs(value) >= 1000) return Math.round(value).toLocaleString("en");
  const near = Number(value.toPrecision(4));
  return near !== 0 && Math.abs(near) < 0.001 ? near.toExponential() : String(near);
}

function short(value) {
  const near = Number(value.toPrecision(6));
  if (near === 0) return "0";
  if (Math.abs(near) >= 1000) return near.toLocaleString("en", { notation: "compact", maximumFractionDigits: 1 });
  return Math.abs(near) < 0.001 ? near.toExponential() : String(near);
}
