// The list of jobs.

import { sparkline } from "./chart.js";
import { badge, el, jobPath, table, time } from "./dom.js";

const COLUMNS = [
  "Job",
  "Phase",
  "Progress",
  "Loss",
  { label: "Validation", number: true },
  { label: "Tokens/s", number: true },
  { label: "Time left", number: true },
  { label: "Restarts", number: true },
  "Created",
];

let drawn = null;

export function overview(content, view) {
  const text = JSON.stringify(view);
  if (text === drawn) return;
  drawn = text;
  const focused = content.contains(document.activeElement) && document.activeElement.getAttribute("href");
  const chosen = new URLSearchParams(location.search).get("namespace");
  content.replaceChildren(
    el("div", { class: "heading" }, el("h1", {}, "FineTuneJobs"), namespaces(view.namespaces, chosen)),
    view.jobs.length ? el("div", { class: "cards jobs" }, table("FineTuneJobs", COLUMNS, view.jobs.map(row))) : nothing(chosen),
    view.more ? el("p", { class: "note" }, `and ${view.more.toLocaleString("en")} more that are over: choose a namespace, or ask kubectl`) : "",
  );
  if (focused) content.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
}

function row(job) {
  return [
    el("div", { class: "job" },
      el("a", { href: jobPath(job.namespace, job.name) }, job.name),
      el("span", { class: "note" }, job.namespace),
      el("span", { class: "note model" }, `${job.method} · ${job.model}`)),
    el("div", { class: "phase" }, badge(job.phase), el("p", { class: "note message", title: job.message }, job.message)),
    progress(job),
    job.curve.length > 1 ? el("div", { class: "loss" }, el("span", {}, job.loss), sparkline(job.curve)) : job.loss,
    job.validation,
    job.tokensPerSecond,
    job.remaining,
    job.restarts,
    time(job.created),
  ];
}

function progress(job) {
  if (job.percent === null) return job.progress || "–";
  return el("div", { class: "progress" },
    el("progress", { max: 100, value: job.percent, "aria-label": `Progress of ${job.name}` }),
    el("span", { class: "note" }, job.progress));
}

function namespaces(names, chosen) {
  const link = (name, text) =>
    el("li", {}, el("a", { href: name === null ? "/" : `/?namespace=${encodeURIComponent(name)}`, "aria-current": name === chosen && "page" }, text));
  const all = chosen === null || names.includes(chosen) ? names : [...names, chosen];
  return el("nav", { "aria-label": "Namespaces" }, el("ul", { class: "choices" }, link(null, "All namespaces"), all.map((name) => link(name, name))));
}

function nothing(chosen) {
  const where = chosen === null ? "" : ` in namespace ${chosen}`;
  return el("p", { class: "empty" }, `There is no FineTuneJob${where}. It appears here as soon as one is created.`);
}
