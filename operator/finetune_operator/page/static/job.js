// One job with everything that its status tells, section by section.

import { chart } from "./chart.js";
import { badge, el, facts, jobPath, numeric, table, time } from "./dom.js";

// Title, what it shows of the view, and how; a section of which the view has nothing is left out.
const SECTIONS = [
  [null, (view) => view, head],
  [null, (view) => view.charts, charts],
  ["Evaluation", (view) => view.evaluation, evaluation],
  ["Checkpoints", (view) => view.checkpoints, checkpoints],
  ["Attempts", (view) => view.attempts, attempts],
  ["Queue", (view) => view.queue, facts],
  ["Plan", (view) => view.plan, plan],
  ["Training data", (view) => view.dataset, facts],
  ["Events", (view) => view.events, events],
  ["Conditions", (view) => view.conditions, conditions],
  ["Spec", (view) => view.spec, spec],
];

const drawn = new Map();

export function trail(namespace, name) {
  const home = el("a", { href: "/" }, "FineTuneJobs");
  if (!name) return [home];
  const team = el("a", { href: `/?namespace=${encodeURIComponent(namespace)}` }, namespace);
  const here = el("a", { href: jobPath(namespace, name), "aria-current": "page" }, name);
  const slash = () => el("span", { "aria-hidden": "true" }, " / ");
  return [home, slash(), team, slash(), here];
}

// Only what has changed is drawn again, and a chart not while somebody points at it: what is read or open stays.
export function job(content, view) {
  if (!drawn.size) {
    content.replaceChildren();
    for (const section of SECTIONS) {
      drawn.set(section, { text: null, node: content.appendChild(el("section", { hidden: true })) });
    }
  }
  for (const section of SECTIONS) update(section, view, drawn.get(section));
}

function update([title, select, show], view, known) {
  const { node } = known;
  const part = select(view);
  const text = JSON.stringify(part);
  if (known.text === text || node.querySelector("svg:hover, svg:focus")) return;
  known.text = text;
  node.hidden = !part || (Array.isArray(part) && !part.length);
  const open = new Set([...node.querySelectorAll("details[open]")].map((one) => one.dataset.key));
  node.replaceChildren();
  if (!node.hidden) node.append(...[title && el("h2", {}, title), show(part)].flat().filter(Boolean));
  for (const one of node.querySelectorAll("details")) one.open = open.has(one.dataset.key);
}

function head(view) {
  const created = el("span", { class: "note" }, "created ", time(view.created));
  return [
    el("div", { class: "heading" }, el("h1", {}, view.name), badge(view.phase), created),
    el("p", { class: "message" }, view.message),
    view.progress && bar(view.progress),
    el("dl", { class: "tiles" }, view.tiles.map((tile) =>
      el("div", {}, el("dt", {}, tile.label), el("dd", {}, tile.value)))),
    facts(view.facts),
  ];
}

function bar(progress) {
  return el("div", { class: "bar" },
    progress.percent !== null && el("progress", { max: 100, value: progress.percent, "aria-label": "Progress" }),
    el("p", {},
      el("strong", {}, `Step ${progress.summary}`),
      progress.remaining && ` · ${progress.remaining} left, until ${clock(progress.finish)}`,
      progress.heard && el("span", { class: "note" }, " · last heard ", time(progress.heard))));
}

function clock(moment) {
  return new Date(moment).toLocaleString([], { weekday: "short", hour: "2-digit", minute: "2-digit" });
}

function charts(list) {
  return el("div", { class: "charts" }, list.map(chart));
}

function evaluation(found) {
  const losses = found.columns.map((one) => `${one.label}, step ${one.step}`);
  const others = ["Change", "Perplexity", "Token accuracy", "Answered", "Tokens"];
  const rows = found.sets.map((set) => [
    set.name,
    ...set.losses,
    el("span", { class: set.improved && "good" }, set.change),
    set.perplexity,
    set.tokenAccuracy,
    set.answered,
    set.tokens,
  ]);
  return [
    found.stoppedEarly && el("p", { class: "warning" }, `Stopped early: ${found.stoppedEarly}`),
    el("p", { class: "note" }, "Loss per token. Change, perplexity and accuracy are those of the result, or else of "
      + "the latest evaluation."),
    table("Evaluation", ["Data", ...numeric(...losses, ...others)], rows),
  ];
}

function checkpoints(list) {
  const columns = ["Name", "Kind", ...numeric("Step", "Epoch", "Size", "Validation loss"), "Path", "Complete"];
  return table("Checkpoints", columns, list.map((one) => [
    el("span", {}, one.name, one.best && el("span", { class: "tag" }, "best")),
    one.kind,
    one.step,
    one.epoch,
    one.size,
    one.validationLoss,
    el("code", {}, one.path),
    time(one.time),
  ]));
}

function attempts(list) {
  return el("ol", { class: "attempts" }, list.map(attempt));
}

function attempt(one) {
  const end = one.reason ? el("span", { class: "tag" }, one.reason) : el("span", { class: "tag now" }, "under way");
  const key = `log-${one.number}`;
  return el("li", {},
    el("h3", {}, `Attempt ${one.number} `, end),
    el("p", { class: "note" },
      "started ", time(one.start),
      one.end && ", ended ", one.end && time(one.end),
      `, from ${one.from}`,
      one.last && ` to step ${one.last}`,
      one.node && ` on node ${one.node}`,
      one.exitCode !== null && `, exit code ${one.exitCode}`,
      one.counted === false && ", not counted as a restart"),
    one.message && el("p", {}, one.message),
    one.log && el("details", { "data-key": key }, el("summary", {}, "Last lines of its log"), el("pre", {}, one.log)));
}

function plan(found) {
  const settings = found.settings.map((one) => [
    el("span", { title: one.field }, one.name),
    one.value,
    el("span", { class: "note" }, one.reason),
  ]);
  return [
    ...found.warnings.map((one) => el("p", { class: "warning" }, el("code", {}, one.field), ` ${one.message}`)),
    table("Settings", ["Setting", ...numeric("Value"), "Why"], settings),
    facts(found.course),
    found.memory && memory(found.memory),
    found.assumptions.length > 0
      && el("ul", { class: "note" }, found.assumptions.map((one) => el("li", {}, `Assumed: ${one}`))),
  ];
}

function memory(found) {
  const whole = Math.max(found.estimate.bytes, found.limit?.bytes ?? 0, found.peak?.bytes ?? 0);
  const parts = found.parts.map((part, i) => {
    const node = el("span", { "data-part": i + 1, title: `${part.label}: ${part.text}` });
    node.style.width = `${(100 * part.bytes) / whole}%`;
    return node;
  });
  return el("div", {},
    el("h3", {}, `Memory of a ${found.of} at its peak`),
    el("p", { class: "note" },
      `${found.estimate.text} estimated, ${found.range} likely`,
      found.peak && `; ${found.peak.text} measured`,
      found.limit && `; a ${found.of} has ${found.limit.text}`),
    el("div", { class: "memory", "aria-hidden": "true" }, parts),
    el("ul", { class: "parts" }, found.parts.map((part, i) => el("li", {},
      el("span", { class: "swatch", "data-part": i + 1 }), ` ${part.label} `, el("strong", {}, part.text)))));
}

function events(list) {
  return table("Events", ["When", "Type", "Reason", "What happened"], list.map((one) => [
    time(one.time),
    el("span", { class: one.type === "Warning" && "bad" }, one.type),
    one.reason,
    one.count > 1 ? `${one.message} (${one.count} times)` : one.message,
  ]));
}

function conditions(list) {
  return table("Conditions", ["Type", "Status", "Reason", "Message", "Since"], list.map((one) =>
    [one.type, one.status, one.reason, one.message, time(one.lastTransitionTime)]));
}

function spec(found) {
  return el("details", { "data-key": "spec" },
    el("summary", {}, "As it was submitted, with defaults"),
    el("pre", {}, JSON.stringify(found, null, 2)));
}
