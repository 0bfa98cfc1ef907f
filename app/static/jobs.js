// The jobs panel: what runs, how far it is, what failed; start and cancel.

import { api, ApiError, poll } from "./api.js";
import { button, element, tell } from "./dom.js";

const panel = document.getElementById("jobs");
const list = document.getElementById("job-list");
const note = document.getElementById("jobs-note");
const stopping = new Set(); // ids of jobs that were asked to stop
let started = false;
let seen = { data: { items: [] }, etag: null };

export function startJobs() {
  if (started) return;
  started = true;
  document.getElementById("backfill").addEventListener("click", () => act(async () => {
    await api("POST", "/v1/jobs", { kind: "backfill" });
    note.textContent = "Started.";
  }));
  watch();
}

// What a button does; what goes wrong is said beside them.
async function act(work) {
  note.textContent = "";
  try {
    await work();
    await refresh();
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    note.textContent = error.message;
  }
}

async function watch() {
  let busy = false;
  try {
    busy = await refresh();
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    panel.hidden = error.status === 401 || error.status === 403;
  }
  setTimeout(watch, busy ? 2000 : 10_000);
}

async function refresh() {
  const news = await poll("/v1/jobs?limit=10", seen.etag);
  if (news) {
    seen = news;
    draw(news.data.items);
  }
  return seen.data.items.some(underway);
}

function underway(job) {
  return ["queued", "running", "stalled"].includes(job.state);
}

// Who is at a button of the list with the keyboard stays there.
function draw(jobs) {
  panel.hidden = false;
  const at = list.contains(document.activeElement) ? document.activeElement.dataset.act : null;
  list.replaceChildren(...jobs.map(entry));
  if (!jobs.length) list.append(element("li", { textContent: "No jobs yet." }));
  if (at) (list.querySelector(`[data-act="${at}"]`) ?? document.getElementById("backfill")).focus();
}

function entry(job) {
  const item = element("li");
  const state = job.waiting_for ? "waiting for a worker" : stopping.has(job.job_id) && underway(job) ? "stopping" : job.state;
  const where = job.collection ? ` in ${job.collection}` : "";
  item.append(element("strong", { textContent: `${job.kind.replaceAll("_", " ")}${where}: ${state}` }));
  if (job.total) {
    const bar = element("progress", { max: job.total, value: job.done });
    bar.setAttribute("aria-label", `${job.done} of ${job.total}`);
    item.append(bar);
  }
  const facts = [`${job.done}${job.total ? ` of ${job.total}` : ""} done`, `${job.faces} faces`];
  if (job.failed) facts.push(`${job.failed} failed`);
  if (job.eta_s) facts.push(`about ${left(job.eta_s)} left`);
  if (job.last_error) facts.push(job.last_error);
  item.append(element("p", { className: "hint", textContent: facts.join(" · ") }));
  const row = element("p", { className: "row" });
  const add = (name, text, work) => {
    const press = button(text, () => act(work));
    press.dataset.act = `${name}-${job.job_id}`;
    press.setAttribute("aria-label", `${text}: ${job.kind}${where}`);
    row.append(press);
  };
  if (underway(job)) {
    add("cancel", "Cancel", async () => {
      await api("POST", `/v1/jobs/${job.job_id}/cancel`);
      stopping.add(job.job_id);
      draw(seen.data.items);
    });
  }
  if (job.failed) add("failures", "Show failures", () => failures(job));
  if (row.children.length) item.append(row);
  return item;
}

function left(seconds) {
  return seconds < 90 ? `${Math.ceil(seconds)} s` : `${Math.ceil(seconds / 60)} min`;
}

async function failures(job) {
  const page = await api("GET", `/v1/jobs/${job.job_id}/failures?limit=50`);
  const lines = element("ul");
  lines.append(...page.items.map((one) => element("li", { textContent: `${one.key}: ${one.detail}` })));
  await tell("What failed", [lines]);
}
