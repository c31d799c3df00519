// Elements of the page. Whatever comes from the cluster gets in as text, never as markup.

const SVG = "http://www.w3.org/2000/svg";

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) node.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value);
  }
  // append() makes text nodes of strings.
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

export function el(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

export function jobPath(namespace, name) {
  return `/namespaces/${encodeURIComponent(namespace)}/finetunejobs/${encodeURIComponent(name)}`;
}

// A moment as what has passed since, kept up to date by `refreshTimes`; the exact time is its title.
export function time(moment) {
  if (!moment) return el("span", {}, "–");
  const node = el("time", { datetime: moment, title: new Date(moment).toLocaleString() });
  node.textContent = distance(moment);
  return node;
}

export function refreshTimes() {
  for (const node of document.querySelectorAll("time")) {
    const text = distance(node.dateTime);
    if (node.textContent !== text) node.textContent = text;
  }
}

function distance(moment) {
  const seconds = Math.round((Date.now() - new Date(moment)) / 1000);
  const text = span(Math.abs(seconds));
  return seconds < 0 ? `in ${text}` : `${text} ago`;
}

// By its two largest units, as kubectl writes ages: "3d4h", "2h51m", "12s".
export function span(seconds) {
  const parts = [];
  for (const [unit, size] of [["d", 86400], ["h", 3600], ["m", 60], ["s", 1]]) {
    const count = Math.floor(seconds / size);
    seconds -= count * size;
    if (count || parts.length) parts.push([count, unit]);
  }
  return parts.slice(0, 2).filter(([count]) => count).map(([count, unit]) => `${count}${unit}`).join("") || "0s";
}

// Columns of numbers.
export function numeric(...labels) {
  return labels.map((label) => ({ label, number: true }));
}

// A table; on narrow screens each row becomes a card, whose cells are named by `data-label`.
export function table(caption, columns, rows) {
  const named = columns.map((column) => (typeof column === "string" ? { label: column } : column));
  const cell = (content, i) => {
    const kind = [named[i].number && "number", content === "–" && "none"].filter(Boolean).join(" ");
    const attributes = { class: kind || null, "data-label": named[i].label };
    return i === 0 ? el("th", { ...attributes, scope: "row" }, content) : el("td", attributes, content);
  };
  const head = named.map(({ label, number }) => el("th", { scope: "col", class: number && "number" }, label));
  return el("div", { class: "cards", tabindex: "0", role: "region", "aria-label": caption },
    el("table", {},
      el("caption", { class: "hidden" }, caption),
      el("thead", {}, el("tr", {}, head)),
      el("tbody", {}, rows.map((cells) => el("tr", {}, cells.map(cell))))));
}

export function badge(phase) {
  return el("span", { class: "badge", "data-phase": phase }, phase || "New");
}

export function facts(list) {
  return el("dl", { class: "facts" }, list.map((fact) =>
    el("div", {}, el("dt", {}, fact.label), el("dd", {}, fact.time ? time(fact.time) : String(fact.value)))));
}
