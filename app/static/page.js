// The page's comfort: everything here goes through the public API. No state outlives the tab; the
// address holds the filters, so that links and the back button work.

import { api as call, ApiError, enterKey, hasKey, image, needsKey } from "./api.js";
import { button, element, say } from "./dom.js";
import { watchHealth } from "./health.js";
import { startJobs } from "./jobs.js";
import { erasePerson, nameFace, rejectFace, removeMedia } from "./people.js";
import { smaller } from "./shrink.js";

const form = document.getElementById("search");
const answer = document.getElementById("answer");
const photoArea = document.getElementById("photo");
const gallery = document.getElementById("gallery");
const results = document.getElementById("results");
const title = document.getElementById("results-title");
const fields = ["collection", "min_similarity", "limit", "subject", "taken_from", "taken_before"];
const checks = ["one_per_media", "unnamed"];

let chosenPhoto = null; // a Blob that was dropped or pasted
let shown = null; // { response, url, index } of the photo search on screen
let threshold = Number(document.getElementById("min_similarity").placeholder) || 0;

let visit = new AbortController(); // ends with the view that began it: a late answer draws nothing

document.body.classList.add("scripted");

function api(method, path, body) {
  return call(method, path, body, visit.signal);
}

// Begin a view; what an earlier one still waits for is given up.
function begin() {
  visit.abort();
  visit = new AbortController();
  return visit;
}

// ---- the address ----------------------------------------------------------------------------

function readAddress() {
  const query = new URLSearchParams(location.search);
  for (const name of fields) {
    if (query.has(name)) form.elements[name].value = query.get(name);
  }
  for (const name of checks) form.elements[name].checked = query.get(name) === "1";
  return query;
}

function address(extra = {}) {
  const query = new URLSearchParams();
  for (const name of fields) {
    const value = form.elements[name].value.trim();
    const usual = { collection: "default", limit: "10" }[name] ?? "";
    if (value !== usual) query.set(name, value);
  }
  for (const name of checks) if (form.elements[name].checked) query.set(name, "1");
  for (const [name, value] of Object.entries(extra)) query.set(name, value);
  const text = query.toString();
  return text ? `?${text}` : location.pathname;
}

function goTo(extra) {
  history.pushState(null, "", address(extra));
}

async function follow() {
  const query = readAddress();
  const collection = form.elements.collection.value;
  const mine = begin();
  await guarded(async () => {
    let view = "gallery";
    if (query.has("face_id")) {
      view = "face";
      await searchBy({ face_id: query.get("face_id") }, "this face");
    } else if (query.has("person")) {
      view = "person";
      await showPerson(collection, query.get("person"));
    } else if (query.has("media_id")) {
      view = "media";
      await showMedia(collection, query.get("media_id"));
    } else {
      await showGallery();
    }
    if (mine === visit) results.dataset.view = view;
  });
}

// ---- asking the API -------------------------------------------------------------------------

async function guarded(work) {
  const mine = visit;
  results.setAttribute("aria-busy", "true");
  try {
    return await work();
  } catch (error) {
    if (error.name === "AbortError") return undefined;
    if (error instanceof ApiError && error.status === 401 && !hasKey()) {
      say("This service needs an API key: enter it in the form.", true);
      document.getElementById("api_key")?.focus();
    } else {
      say(explain(error), true);
    }
    return undefined;
  } finally {
    if (mine === visit) results.removeAttribute("aria-busy");
  }
}

function explain(error) {
  if (!(error instanceof ApiError)) return "The service did not answer. Is it still running?";
  const hints = {
    no_face: "No face was found in this photo. Try one where the face is larger or seen from the front.",
    loading: "The models are still loading. Try again in a few seconds.",
    index_not_ready: "The index is still being built. Try again in a moment.",
    busy: "The service is busy. Try again in a moment.",
    face_recognition_disabled: "Face recognition is switched off on this service.",
  };
  return hints[error.code] ?? error.detail;
}

function wishes() {
  const at = (name) => form.elements[name].value.trim();
  const filter = {};
  const taken = {};
  if (at("taken_from")) taken.$gte = at("taken_from");
  if (at("taken_before")) taken.$lt = at("taken_before");
  if (Object.keys(taken).length) filter.taken_at = taken;
  if (at("subject")) filter.subject_id = at("subject");
  const wish = {
    collection: at("collection") || "default",
    limit: Number(at("limit") || 10),
    group_by: form.elements.one_per_media.checked ? "media" : "face",
    assigned: form.elements.unnamed.checked ? "none" : "any",
  };
  if (at("min_similarity")) wish.min_similarity = Number(at("min_similarity"));
  if (Object.keys(filter).length) wish.filter = filter;
  return wish;
}

async function searchByPhoto() {
  const blob = chosenPhoto ?? form.elements.image.files[0];
  const url = form.elements.image_url.value.trim();
  if (!blob && !url) {
    say("Choose a photo first.", true);
    form.elements.image.focus();
    return;
  }
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
  goTo({});
  results.dataset.view = "photo";
  shown = { response, source, index: 0 };
  drawPhoto();
  drawFace(0);
  const all = response.faces.length + response.unsearched.length;
  const found = response.faces.reduce((sum, face) => sum + face.matches.length, 0);
  say(`${all} ${all === 1 ? "face" : "faces"} in the photo, ${found} ${found === 1 ? "result" : "results"}.`);
  results.focus();
}

async function searchBy(query, what) {
  say("Searching…");
  const response = await api("POST", "/v1/search", { ...wishes(), ...query });
  shown = null;
  photoArea.replaceChildren();
  gallery.replaceChildren();
  title.textContent = `Like ${what}`;
  drawMatches(response.faces[0]?.matches ?? []);
  const count = response.faces[0]?.matches.length ?? 0;
  say(`${count} ${count === 1 ? "result" : "results"}.${response.complete ? "" : " There may be more."}`);
  results.focus();
}

// ---- drawing --------------------------------------------------------------------------------

function drawPhoto() {
  const { response, source } = shown;
  gallery.replaceChildren();
  title.textContent = "Results";
  const { width, height } = response.image;
  const frame = element("div", { className: "frame" });
  if (source) {
    frame.append(element("img", { src: source, alt: "The photo searched with" }));
  } else {
    frame.append(element("div", { className: "note", textContent: "The photo at the address that you gave." }));
  }
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("class", "boxes");
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  const box = ({ box: b }, kind) => {
    const rect = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    for (const side of ["x", "y", "width", "height"]) rect.setAttribute(side, b[side]);
    rect.setAttribute("class", kind);
    svg.append(rect);
  };
  response.faces.forEach((face) => box(face, "searched"));
  response.unsearched.forEach((face) => box(face, "other"));
  if (source) frame.append(svg);
  response.faces.forEach((face, index) => {
    const count = face.matches.length;
    const label = `Face ${index + 1}: ${count} ${count === 1 ? "result" : "results"}`;
    const press = button("", () => drawFace(index));
    press.className = "face-button";
    press.setAttribute("aria-label", label);
    press.title = label;
    press.append(element("span", { textContent: String(index + 1) }));
    // Positions by script, not by a style attribute: the content security policy forbids those.
    press.style.setProperty("left", `${(100 * face.box.x) / width}%`);
    press.style.setProperty("top", `${(100 * face.box.y) / height}%`);
    press.style.setProperty("width", `${(100 * face.box.width) / width}%`);
    press.style.setProperty("height", `${(100 * face.box.height) / height}%`);
    frame.append(press);
  });
  const parts = [frame];
  if (response.unsearched.length) {
    const reasons = [...new Set(response.unsearched.map((face) => face.reason.replaceAll("_", " ")))];
    parts.push(element("p", {
      className: "note",
      textContent: `${response.unsearched.length} more not searched (${reasons.join(", ")}).`,
    }));
  }
  photoArea.replaceChildren(...parts);
}

function drawFace(index) {
  shown.index = index;
  photoArea.querySelectorAll(".face-button").forEach((press, at) => {
    press.setAttribute("aria-pressed", String(at === index));
  });
  photoArea.querySelectorAll("rect.searched").forEach((rect, at) => {
    rect.classList.toggle("chosen", at === index);
  });
  const face = shown.response.faces[index];
  drawMatches(face ? face.matches : [], shown.response.faces.length > 1 ? `Face ${index + 1}` : null);
}

function word(similarity) {
  if (similarity >= threshold + 0.5 * (1 - threshold)) return "very similar";
  return similarity >= threshold ? "similar" : "below the threshold";
}

function drawMatches(matches, heading = null) {
  const parts = [];
  if (heading) parts.push(element("h3", { textContent: heading }));
  if (!matches.length) {
    parts.push(element("p", { textContent: "Nobody is similar enough. Lower the least similarity to see more." }));
  }
  const list = element("ol", { className: "matches" });
  list.append(...matches.map(matchItem));
  parts.push(list);
  answer.replaceChildren(...parts);
}

function matchItem(match) {
  const item = element("li", { className: "match" });
  const body = element("div");
  const name = match.media.title || match.media_id;
  body.append(element("strong", { textContent: name, title: name }));
  const line = element("p");
  line.append(
    element("span", { className: "number", textContent: match.similarity.toFixed(2) }),
    ` ${word(match.similarity)}`,
  );
  if (match.subject_id) line.append(` · ${match.subject ?? match.subject_id}`);
  if (match.media.taken_at) line.append(` · ${match.media.taken_at.slice(0, 10)}`);
  body.append(line);
  if (/^https?:\/\//.test(match.media.url ?? "")) {
    body.append(element("a", { href: match.media.url, textContent: "Source", rel: "noreferrer noopener", target: "_blank" }));
  }
  const row = element("p", { className: "row" });
  row.append(
    button("Similar", () => navigate({ face_id: match.face_id })),
    button("Photo", () => navigate({ media_id: match.media_id })),
    button(match.subject_id ? "Rename" : "Name", () => guarded(() => giveName(match))),
  );
  if (match.subject_id) {
    row.append(
      button("All photos", () => navigate({ person: match.subject_id })),
      button("Not this person", () => guarded(() => reject(match, item))),
    );
  }
  body.append(row);
  const picture = element("img", { alt: "", width: 96, height: 96, loading: "lazy" });
  image(picture, thumbnailPath(match));
  item.append(picture, body);
  return item;
}

function thumbnailPath({ collection, image_id: id }) {
  return `/v1/collections/${encodeURIComponent(collection)}/thumbnails/${id}`;
}

function navigate(extra) {
  goTo(extra);
  return follow();
}

// ---- gallery, photos, people ----------------------------------------------------------------

async function showGallery(cursor = null) {
  const collection = form.elements.collection.value;
  const where = `/v1/collections/${encodeURIComponent(collection)}/media?limit=48`;
  const page = await api("GET", cursor ? `${where}&cursor=${encodeURIComponent(cursor)}` : where);
  if (!cursor) {
    shown = null;
    title.textContent = "The gallery";
    photoArea.replaceChildren();
    answer.replaceChildren();
    gallery.replaceChildren();
    say(page.items.length ? "Choose a photo to search with, or take one from here." : "This collection has no photos yet.");
  }
  gallery.querySelector(".more")?.remove();
  gallery.append(...page.items.filter((item) => item.image_id).map(tile));
  if (page.next_cursor) {
    const more = button("More photos", () => guarded(() => showGallery(page.next_cursor)));
    more.className = "more";
    gallery.append(more);
  }
}

function tile(item) {
  const press = button("", () => navigate({ media_id: item.media_id }));
  press.title = item.title || item.media_id;
  const count = `${item.face_count} ${item.face_count === 1 ? "face" : "faces"}`;
  const picture = element("img", { alt: `${item.title || item.media_id}, ${count}`, loading: "lazy" });
  picture.addEventListener("error", () => press.replaceChildren(`${count}, no preview`), { once: true });
  image(picture, thumbnailPath(item));
  press.append(picture);
  return press;
}

async function showMedia(collection, mediaId) {
  const path = `/v1/collections/${encodeURIComponent(collection)}/media/${encodeURIComponent(mediaId)}`;
  const item = await api("GET", path);
  shown = null;
  gallery.replaceChildren();
  title.textContent = item.title || item.media_id;
  const picture = element("img", { alt: "" });
  await image(picture, thumbnailPath(item));
  const frame = element("div", { className: "frame" });
  frame.append(picture);
  const row = element("p", { className: "row" });
  item.faces.forEach((face, index) => {
    row.append(button(`Find face ${index + 1}`, () => navigate({ face_id: face.face_id })));
  });
  const press = button("Delete this photo’s faces", () => guarded(() => remove(path, item)));
  press.className = "danger";
  row.append(press);
  photoArea.replaceChildren(frame, row);
  answer.replaceChildren();
  say(`${item.face_count} ${item.face_count === 1 ? "face is" : "faces are"} indexed in this photo.`);
  if (item.faces.length) {
    const response = await api("POST", "/v1/search", { ...wishes(), face_id: item.faces[0].face_id });
    drawMatches(response.faces[0].matches, "Like its largest face");
  }
  results.focus();
}

async function showPerson(collection, subjectId) {
  const base = `/v1/collections/${encodeURIComponent(collection)}/subjects/${encodeURIComponent(subjectId)}`;
  const [person, page] = await Promise.all([api("GET", base), api("GET", `${base}/media?limit=200`)]);
  shown = null;
  photoArea.replaceChildren();
  answer.replaceChildren();
  title.textContent = person.name ?? person.subject_id;
  gallery.replaceChildren(...page.items.map(tile));
  const row = element("p", { className: "row" });
  row.append(button("Find more of this person", () => guarded(() => searchBy({ subject_id: subjectId }, person.name ?? subjectId))));
  const press = button("Erase this person", () => guarded(() => erase(base, person)));
  press.className = "danger";
  row.append(press);
  answer.append(row);
  say(`${page.items.length} ${page.items.length === 1 ? "photo" : "photos"}${page.next_cursor ? " and more" : ""}.`);
  results.focus();
}

async function giveName(match) {
  const saved = await nameFace(api, match);
  if (!saved) return;
  await redraw();
  say(`Saved: ${saved}.`);
}

async function reject(match, item) {
  await rejectFace(api, match);
  say("Noted: this face is not that person.");
  item.replaceWith(matchItem(match));
}

async function remove(path, item) {
  if (await removeMedia(api, path, item)) await navigate({});
}

async function erase(base, person) {
  if (await erasePerson(api, base, person)) await navigate({});
}

async function redraw() {
  if (shown) drawFace(shown.index);
  else await follow();
}

// ---- beginnings -----------------------------------------------------------------------------

form.addEventListener("submit", (event) => {
  event.preventDefault();
  enterKey(form.elements.api_key?.value);
  const go = document.getElementById("go");
  go.disabled = true;
  begin();
  guarded(searchByPhoto).finally(() => { go.disabled = false; });
});

form.elements.image.addEventListener("change", () => {
  chosenPhoto = null;
  if (form.elements.image.files.length) form.requestSubmit();
});
form.elements.api_key?.addEventListener("change", (event) => {
  enterKey(event.target.value);
  follow();
  fillLists();
});

function take(blob) {
  chosenPhoto = blob;
  form.elements.image.value = "";
  form.requestSubmit();
}

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
window.addEventListener("popstate", follow);

async function fillLists() {
  try {
    const collections = await call("GET", "/v1/collections?limit=1000");
    document.getElementById("collections").replaceChildren(
      ...collections.items.map((one) => element("option", { value: one.collection })),
    );
    const models = await call("GET", "/v1/models");
    threshold = models.items.find((one) => one.active)?.threshold ?? threshold;
    startJobs();
  } catch {
    // The lists are a convenience; what is wrong shows where it matters.
  }
}

watchHealth();
if (needsKey() && !hasKey()) {
  readAddress();
  say("Enter an API key to begin.");
} else if (!answer.querySelector("li")) {
  follow();
  fillLists();
} else {
  fillLists();
}
