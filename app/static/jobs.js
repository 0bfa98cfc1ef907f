// The jobs panel: what runs, how far it is, what failed; start and cancel.

import { api } from "./api.js";
import { ask, button, element } from "./dom.js";

const panel = document.getElementById("jobs");
const list = document.getElementById("job-list");
const note = document.getElementById("jobs-note");
let started = false;
let before = "";

export function startJobs() {
  if (started) return;
  started = true;
  document.getElementById("backfill").addEventListener("click", startBackfill);
  poll();
}

async function startBackfill() {
  try {
    await api("POST", "/v1/jobs", { kind: "backfill" });
    note.textContent = "Started.";
    await refresh();
  } catch (error) {
    note.textContent = error.message;
  }
}

async function poll() {
  let busy = false;
  try {
    busy = await refresh();
  } catch (error) {
    panel.hidden = error.status === 401 || error.status === 403;
  }
  setTimeout(poll, busy ? 2000 : 10_000);
}

async function refresh() {
  const page = await api("GET", "/v1/jobs?limit=10");
  panel.hidden = false;
  const text = JSON.stringify(page.items);
  if (text !== before) {
    before = text;
    list.replaceChildren(...page.items.map(entry));
    if (!page.items.length) list.append(element("li", { textContent: "No jobs yet." }));
  }
  return page.items.some((job) => ["queued", "running", "stalled"].includes(job.state));
}

function entry(job) {
  const item = element("li");
  const state = job.waiting_for ? "waiting for a worker" : job.state;
  const where = job.collection ? ` in ${job.collection}` : "";
  item.append(element("strong", { textContent: `${job.kind.replaceAll("_", " ")}${where}: ${state}` }));
  if (job.total) {
    const bar = element("progress", { max: job.total, value: job.done });
    bar.setAttribute("aria-label", `${job.done} of ${job.total}`);
    item.append(bar);
  }
  const facts = [`${job.done}${job.total ? ` of ${job.total}` : ""} done`, `${job.faces} faces`];
  if (job.failed) facts.push(`${job.failed} failed`);
  if (job.eta_s) facts.push(`about ${Math.ceil(job.eta_s / 60)} min left`);
  if (job.last_error) facts.push(job.last_error);
  item.append(element("p", { className: "hint", textContent: facts.join(" · ") }));
  const row = element("p", { className: "row" });
  if (["queued", "running", "stalled"].includes(job.state)) {
    row.append(button("Cancel", () => api("POST", `/v1/jobs/${job.job_id}/cancel`).then(refresh, (error) => { note.textContent = error.message; })));
  }
  if (job.failed) row.append(button("Show failures", () => failures(job)));
  if (row.children.length) item.append(row);
  return item;
}

async function failures(job) {
  const page = await api("GET", `/v1/jobs/${job.job_id}/failures?limit=50`);
  const lines = element("ul");
  lines.append(...page.items.map((one) => element("li", { textContent: `${one.key}: ${one.detail}` })));
  await ask("What failed", [lines], "Close");
}
