// The list of jobs.

import { sparkline } from "./chart.js";
import { badge, el, jobPath, numeric, table, time } from "./dom.js";

const COLUMNS = [
  "Job",
  "Phase",
  "Progress",
  "Loss",
  ...numeric("Validation", "Tokens/s", "Time left", "Restarts"),
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
    view.jobs.length ? jobs(view.jobs) : nothing(chosen),
    view.more ? more(view.more) : "",
  );
  if (focused) content.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
}

function jobs(list) {
  return el("div", { class: "jobs" }, table("FineTuneJobs", COLUMNS, list.map(row)));
}

function more(count) {
  return el("p", { class: "note" }, `and ${count.toLocaleString("en")} more: choose a namespace, or ask kubectl`);
}

function row(job) {
  return [
    el("div", { class: "job" },
      el("a", { href: jobPath(job.namespace, job.name) }, job.name),
      el("span", { class: "note" }, job.namespace),
      el("span", { class: "note model" }, `${job.method} · ${job.model}`)),
    el("div", { class: "phase" },
      badge(job.phase),
      el("p", { class: "note message", title: job.message }, job.message)),
    progress(job),
    loss(job),
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

function loss(job) {
  if (job.curve.length < 2) return job.loss;
  return el("div", { class: "loss" }, el("span", {}, job.loss), sparkline(job.curve));
}

function namespaces(names, chosen) {
  const link = (name, text) => {
    const href = name === null ? "/" : `/?namespace=${encodeURIComponent(name)}`;
    return el("li", {}, el("a", { href, "aria-current": name === chosen && "page" }, text));
  };
  const all = chosen === null || names.includes(chosen) ? names : [...names, chosen];
  const links = [link(null, "All namespaces"), ...all.map((name) => link(name, name))];
  return el("nav", { "aria-label": "Namespaces" }, el("ul", { class: "choices" }, links));
}

function nothing(chosen) {
  const where = chosen === null ? "" : ` in namespace ${chosen}`;
  return el("p", { class: "empty" }, `There is no FineTuneJob${where}. It appears here as soon as one is created.`);
}
