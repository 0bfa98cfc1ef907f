// The views: a photo that was searched with, the gallery, a photo of it, a person, who is like them.

import { collection, collectionPath, goTo, wishes } from "./address.js";
import { image } from "./api.js";
import { button, element, say } from "./dom.js";
import { fillSubjects } from "./lists.js";
import { count, danger, matchList, thumbnailPath, tile } from "./matches.js";
import { assign, erasePerson, nameFace, personPath, reject, removeMedia, renamePerson, unassign } from "./people.js";
import { photoFrame } from "./photo.js";
import { api, begin, guarded } from "./visit.js";

const answer = document.getElementById("answer");
const photoArea = document.getElementById("photo");
const gallery = document.getElementById("gallery");
const results = document.getElementById("results");
const title = document.getElementById("results-title");

export function clear(heading) {
  title.textContent = heading;
  photoArea.replaceChildren();
  answer.replaceChildren();
  gallery.replaceChildren();
}

// Show what is looked at: { face_id }, { media_id }, { person }, { like }, or {} for the gallery.
export function show(target) {
  begin();
  const [[name, id] = ["gallery"]] = Object.entries(target);
  const views = {
    gallery: () => showGallery(),
    face_id: () => showFace(id),
    media_id: () => showMedia(collection(), id),
    person: () => showPerson(id),
    like: () => showLike(id),
  };
  const words = { face_id: "face", media_id: "media" };
  return guarded(views[name], words[name] ?? name);
}

function navigate(target) {
  goTo(target);
  return show(target);
}

// ---- a photo that was searched with ---------------------------------------------------------

export function showSearched({ response, source }) {
  clear("Results");
  const { faces, unsearched } = response;
  const choose = (index) => {
    mark(index);
    const heading = faces.length > 1 ? [element("h3", { textContent: `Face ${index + 1}` })] : [];
    answer.replaceChildren(...heading, matchList(faces[index]?.matches ?? [], (match) => acts(match, () => choose(index))));
  };
  const label = (face, index) => `Face ${index + 1}: ${count(face.matches.length, "result")}`;
  const picture = source
    ? element("img", { src: source, alt: "The photo searched with" })
    : blank(response.image, "The photo at the address that you gave");
  const { frame, choose: mark } = photoFrame({ picture, size: response.image, faces, others: unsearched, label, act: choose });
  photoArea.append(frame);
  if (unsearched.length) {
    const reasons = [...new Set(unsearched.map((face) => face.reason.replaceAll("_", " ")))];
    photoArea.append(element("p", { className: "note", textContent: `${unsearched.length} more not searched (${reasons.join(", ")}).` }));
  }
  choose(0);
  const found = faces.reduce((sum, face) => sum + face.matches.length, 0);
  say(`${count(faces.length + unsearched.length, "face")} in the photo, ${count(found, "result")}.`);
  results.dataset.view = "photo";
  results.focus();
}

// A grey photo of the right shape: the policy lets the browser load no picture from elsewhere.
function blank({ width, height }, alt) {
  const scale = Math.min(1, 640 / Math.max(width, height));
  const canvas = element("canvas", { width: width * scale, height: height * scale, className: "blank" });
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", alt);
  return canvas;
}

// ---- the gallery and its photos -------------------------------------------------------------

async function showGallery() {
  const page = await api("GET", `${collectionPath()}/media?limit=48`);
  clear("The gallery");
  say(page.items.length ? "Choose a photo to search with, or take one from here." : "This collection has no photos yet.");
  addTiles(page, `${collectionPath()}/media?limit=48`);
}

function addTiles(page, path) {
  gallery.querySelector(".more")?.remove();
  const tiles = page.items
    .filter((item) => item.image_id)
    .map((item) => tile(item, () => navigate({ media_id: item.media_id })));
  gallery.append(...tiles);
  if (!page.next_cursor) return tiles[0];
  const more = button("More photos", () => guarded(async () => {
    addTiles(await api("GET", `${path}&cursor=${encodeURIComponent(page.next_cursor)}`), path)?.focus();
  }));
  more.className = "more";
  gallery.append(more);
  return tiles[0];
}

async function showFace(faceId) {
  const face = await api("GET", `/v1/faces/${encodeURIComponent(faceId)}`);
  await showMedia(face.collection, face.media_id, faceId);
}

async function showMedia(from, mediaId, faceId = null) {
  const path = `${collectionPath(from)}/media/${encodeURIComponent(mediaId)}`;
  const item = await api("GET", path);
  const picture = element("img", { alt: `${item.title || item.media_id}` });
  image(picture, thumbnailPath(item));
  const faces = item.faces;
  const about = element("div");
  const choose = async (index) => {
    mark(index);
    await showOwnFace(faces[index], about, () => guarded(() => choose(index)));
    const response = await api("POST", "/v1/search", { ...wishes(), face_id: faces[index].face_id });
    const heading = element("h3", { textContent: `Like face ${index + 1}` });
    answer.replaceChildren(heading, matchList(response.faces[0]?.matches ?? [], (match) => acts(match, () => guarded(() => choose(index)))));
  };
  const { frame, choose: mark } = photoFrame({
    picture,
    size: item.image,
    faces,
    label: (face, index) => `Face ${index + 1}`,
    act: (index) => guarded(() => choose(index)),
  });
  clear(item.title || item.media_id);
  photoArea.append(frame, about);
  const row = element("p", { className: "row" });
  row.append(danger("Delete this photo’s faces", () => guarded(async () => {
    const done = await removeMedia(api, path, item);
    if (!done) return;
    await navigate({});
    say(done);
  })));
  photoArea.append(row);
  say(`${item.face_count} ${item.face_count === 1 ? "face is" : "faces are"} indexed in this photo.`);
  if (faces.length) await choose(Math.max(0, faces.findIndex((face) => face.face_id === faceId)));
  results.focus();
}

// Who a face of the gallery is, and what can be done about that.
async function showOwnFace(face, about, redraw) {
  if (face.subject_id && !face.subject) {
    face.subject = (await api("GET", personPath(face.collection, face.subject_id))).name;
  }
  const who = face.subject_id ? face.subject ?? face.subject_id : "nobody named yet";
  const row = element("p", { className: "row" });
  row.append(...acts(face, redraw).filter((press) => press.textContent !== "Photo"));
  about.replaceChildren(element("p", { textContent: `This face: ${who}.` }), row);
}

// ---- people ---------------------------------------------------------------------------------

async function showPerson(subjectId) {
  const base = personPath(collection(), subjectId);
  const path = `${base}/media?limit=48`;
  const [person, page] = await Promise.all([api("GET", base), api("GET", path)]);
  clear(person.name ?? person.subject_id);
  addTiles(page, path);
  const row = element("p", { className: "row" });
  row.append(
    button("Find more of this person", () => navigate({ like: subjectId })),
    button("Rename", () => guarded(async () => {
      if (await renamePerson(api, base, person)) await show({ person: subjectId });
    })),
    danger("Erase this person", () => guarded(async () => {
      if (!(await erasePerson(api, base, person))) return;
      await navigate({});
      say("The person is erased.");
    })),
  );
  answer.append(row);
  say(`${count(page.items.length, "photo")}${page.next_cursor ? " and more" : ""}.`);
  results.focus();
}

async function showLike(subjectId) {
  const [person, response] = await Promise.all([
    api("GET", personPath(collection(), subjectId)),
    api("POST", "/v1/search", { ...wishes(), subject_id: subjectId }),
  ]);
  const name = person.name ?? subjectId;
  const matches = response.faces[0]?.matches ?? [];
  const decided = (match, item, text) => {
    matches.splice(matches.indexOf(match), 1);
    item.remove();
    say(text);
    results.focus();
  };
  clear(`Like ${name}`);
  answer.append(matchList(matches, (match, item) => [
    button("This person", () => guarded(async () => {
      await assign(api, match, person);
      decided(match, item, `Noted: this is ${name}.`);
    })),
    button("Not this person", () => guarded(async () => {
      await reject(api, match, subjectId);
      decided(match, item, `Noted: this is not ${name}; it does not come up again.`);
    })),
    button("Photo", () => navigate({ media_id: match.media_id })),
  ]));
  const row = element("p", { className: "row" });
  row.append(button("All photos", () => navigate({ person: subjectId })));
  answer.prepend(row);
  say(`${count(matches.length, "result")}.${response.complete ? "" : " There may be more."}`);
  results.focus();
}

// ---- what can be done about a face ----------------------------------------------------------

function acts(face, redraw) {
  const change = (work) => guarded(async () => {
    const text = await work();
    if (!text) return;
    await redraw();
    say(text);
    results.focus();
    fillSubjects();
  });
  const presses = [
    button("Similar", () => navigate({ face_id: face.face_id })),
    button("Photo", () => navigate({ media_id: face.media_id })),
    button(face.subject_id ? "Change" : "Name", () => change(async () => {
      const name = await nameFace(api, face);
      return name && `Saved: ${name}.`;
    })),
  ];
  if (!face.subject_id) return presses;
  return [
    ...presses,
    button("All photos", () => navigate({ person: face.subject_id })),
    button("Unassign", () => change(async () => {
      await unassign(api, face);
      return "Saved: nobody named.";
    })),
    button("Not this person", () => change(async () => {
      await reject(api, face, face.subject_id);
      return "Noted: this face is not that person.";
    })),
  ];
}
