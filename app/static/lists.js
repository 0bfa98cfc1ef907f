// What the form's fields suggest. A convenience: what is wrong shows where it matters, so a list
// that cannot be had stays as it is.

import { collectionPath } from "./address.js";
import { api, ApiError } from "./api.js";
import { element } from "./dom.js";
import { setThreshold } from "./matches.js";

function options(id, made) {
  document.getElementById(id).replaceChildren(...made.map((one) => element("option", one)));
}

async function fill(path, draw) {
  try {
    draw((await api("GET", path)).items);
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
  }
}

export function fillLists() {
  fill("/v1/collections?limit=1000", (items) => options("collections", items.map((one) => ({ value: one.collection }))));
  fill("/v1/models", (items) => setThreshold(items.find((one) => one.active)?.threshold));
  fillSubjects();
}

export function fillSubjects() {
  fill(`${collectionPath()}/subjects?limit=500`, (items) => {
    options("subjects", items.map((one) => ({ value: one.subject_id, label: one.name ?? one.subject_id })));
    options("names", items.filter((one) => one.name).map((one) => ({ value: one.name })));
  });
}
