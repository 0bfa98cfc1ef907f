// The page's comfort: everything here goes through the public API. No state outlives the tab.

import { form, goTo, isFilter, readAddress, target, wishes } from "./address.js";
import { enterKey, hasKey, needsKey } from "./api.js";
import { say } from "./dom.js";
import { watchHealth } from "./health.js";
import { startJobs } from "./jobs.js";
import { fillLists, fillSubjects } from "./lists.js";
import { smaller } from "./shrink.js";
import { clear, show, showSearched } from "./views.js";
import { api, begin, guarded } from "./visit.js";

const results = document.getElementById("results");
let chosenPhoto = null; // a Blob that was dropped or pasted
let searched = { number: 0 }; // the last search by photo: the back button leads to it

document.body.classList.add("scripted");

// ---- searching by photo ---------------------------------------------------------------------

async function searchByPhoto(blob, url) {
  clear("Results"); // what another photo found would belie a failure
  say("Searching…");
  const wish = { ...wishes(), face: "all" };
  let response;
  let source = null;
  if (blob) {
    const data = new FormData();
    const small = await smaller(blob);
    data.set("image", small, "photo");
    for (const [name, value] of Object.entries(wish)) {
      data.set(name, typeof value === "object" ? JSON.stringify(value) : String(value));
    }
    response = await api("POST", "/v1/search", data);
    source = URL.createObjectURL(small);
  } else {
    response = await api("POST", "/v1/search", { ...wish, image_url: url });
  }
  if (searched.source) URL.revokeObjectURL(searched.source);
  searched = { number: searched.number + 1, response, source };
  goTo({}, { photo: searched.number });
  showSearched(searched);
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  enterKey(form.elements.api_key?.value);
  const blob = chosenPhoto ?? form.elements.image.files[0];
  const url = form.elements.image_url.value.trim();
  if (!blob && !url) {
    say("Choose a photo first.", true);
    form.elements.image.focus();
    return;
  }
  const go = document.getElementById("go");
  go.disabled = true;
  begin();
  guarded(() => searchByPhoto(blob, url)).finally(() => { go.disabled = false; });
});

function take(blob) {
  chosenPhoto = blob;
  form.elements.image.value = "";
  form.requestSubmit();
}

form.elements.image.addEventListener("change", () => {
  chosenPhoto = null;
  if (form.elements.image.files.length) form.requestSubmit();
});

const drop = document.getElementById("drop");
for (const name of ["dragover", "dragenter"]) {
  document.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
}
document.addEventListener("dragleave", () => drop.classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  const [file] = event.dataTransfer.files;
  if (file) take(file);
});
document.addEventListener("paste", (event) => {
  const [file] = event.clipboardData.files;
  if (file) take(file);
});

// ---- the address ------------------------------------------------------------------------

function follow(state = null) {
  const looked = readAddress();
  if (state?.photo && state.photo === searched.number) {
    begin();
    showSearched(searched);
    return;
  }
  show(looked);
}

window.addEventListener("popstate", (event) => follow(event.state));

// A changed filter shows at once, but a photo is not sent again before it is asked for.
form.addEventListener("change", (event) => {
  if (!isFilter(event.target.name) || !form.checkValidity()) return;
  if (event.target.name === "collection") fillSubjects();
  if (results.dataset.view === "photo") return;
  const looked = target();
  goTo(looked);
  show(looked);
});

form.elements.api_key?.addEventListener("change", (event) => {
  enterKey(event.target.value);
  beginAll();
});

// ---- the beginning --------------------------------------------------------------------------

let begun = false;

function beginAll() {
  begun = true;
  if (results.querySelector("#answer li")) readAddress(); // found without scripts: it stays
  else follow(history.state);
  fillLists();
  startJobs();
}

readAddress();
const mayBegin = () => !needsKey() || hasKey();
if (!mayBegin()) say("Enter an API key to begin.");
let status = document.getElementById("health").dataset.state;
watchHealth((state) => {
  if (state.checks.database !== "ready" || !mayBegin()) return;
  if (!begun) {
    beginAll();
  } else if (status !== "ready" && state.status === "ready" && results.dataset.view === "gallery" && !results.querySelector("#gallery button")) {
    show({}); // what was being indexed is there now
  }
  status = state.status;
});
