// What is shown follows from the address; it is asked for again every few seconds while somebody looks.

import { el, refreshTimes } from "./dom.js";
import { overview } from "./overview.js";
import { job, trail } from "./job.js";

const SECONDS = 3;

const content = document.getElementById("content");
const live = document.getElementById("live");

const jobAddress = /^\/namespaces\/([^/]+)\/finetunejobs\/([^/]+)$/.exec(location.pathname);
const view = jobAddress ? job : overview;
const address = jobAddress ? `/api/v1${location.pathname}` : `/api/v1/finetunejobs${location.search}`;
const parts = jobAddress ? jobAddress.slice(1).map(decodeURIComponent) : [];

let isFilled = false;
let waiting = null;
let asking = false;

document.getElementById("trail").append(...trail(...parts));
if (jobAddress) document.title = `${parts[1]} – FineTuneJobs`;

async function refresh() {
  if (asking) return;
  asking = true;
  clearTimeout(waiting);
  try {
    const answer = await fetch(address, { headers: { Accept: "application/json" } });
    if (!answer.ok) throw new Error((await answer.text()).trim() || answer.statusText);
    view(content, await answer.json());
    isFilled = true;
    say("live", "Live");
  } catch (error) {
    // What was shown stays: it is still the newest that is known.
    say("late", `Not up to date: ${error.message}`);
    if (!isFilled) content.replaceChildren(el("p", { class: "empty" }, error.message));
  } finally {
    asking = false;
    if (!document.hidden) waiting = setTimeout(refresh, SECONDS * 1000);
  }
}

function say(state, text) {
  if (live.textContent === text) return;
  live.dataset.state = state;
  live.textContent = text;
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) clearTimeout(waiting);
  else refresh();
});
setInterval(() => document.hidden || refreshTimes(), 1000);
refresh();
