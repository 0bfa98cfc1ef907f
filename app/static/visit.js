// One visit is one view being asked for. A later one gives up what an earlier one waits for.

import { api as call, ApiError, hasKey } from "./api.js";
import { say } from "./dom.js";

const results = document.getElementById("results");
let visit = new AbortController();

export function begin() {
  visit.abort();
  visit = new AbortController();
}

export function api(method, path, body) {
  return call(method, path, body, visit.signal);
}

// Do the work of a view, named in `data-view` when it is drawn; say in words what goes wrong.
export async function guarded(work, view = null) {
  const mine = visit;
  results.setAttribute("aria-busy", "true");
  try {
    await work();
    if (view && mine === visit) results.dataset.view = view;
  } catch (error) {
    if (error.name === "AbortError") return;
    if (error instanceof ApiError && error.status === 401 && !hasKey()) {
      say("This service needs an API key: enter it in the form.", true);
      document.getElementById("api_key")?.focus();
    } else {
      say(explain(error), true);
    }
  } finally {
    if (mine === visit) results.removeAttribute("aria-busy");
  }
}

const hints = {
  no_face: "No face was found in this photo. Try one where the face is larger or seen from the front.",
  loading: "The models are still loading. Try again in a few seconds.",
  index_not_ready: "The index is still being built. Try again in a moment.",
  busy: "The service is busy. Try again in a moment.",
  face_recognition_disabled: "Face recognition is switched off on this service.",
};

function explain(error) {
  if (!(error instanceof ApiError)) throw error; // a fault of the page: the console has it
  return hints[error.code] ?? error.detail;
}
