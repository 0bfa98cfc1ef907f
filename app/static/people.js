// What editors do to people and photos: each asks first, and says whether it was done.

import { ApiError } from "./api.js";
import { collectionPath } from "./address.js";
import { ask, element, say, tell } from "./dom.js";

// `crypto.randomUUID` is there on https only.
function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export function personPath(collection, subjectId) {
  return `${collectionPath(collection)}/subjects/${encodeURIComponent(subjectId)}`;
}

async function askName(title, value) {
  const input = element("input", { id: "name-input", maxLength: 200, value, required: true });
  input.setAttribute("list", "names");
  const label = element("label", { textContent: "Name", htmlFor: "name-input" });
  return (await ask(title, [label, input], "Save")) ? input.value.trim() : "";
}

// Give a face to the person of a name, who is made when nobody has it; that name, or "".
export async function nameFace(api, face) {
  const name = await askName("Who is this?", face.subject ?? "");
  if (!name || name === face.subject) return "";
  const base = `${collectionPath(face.collection)}/subjects`;
  const known = await api("GET", `${base}?limit=50&q=${encodeURIComponent(name)}`);
  let person = known.items.find((one) => one.name === name);
  person ??= await api("POST", base, { subject_id: newId(), name });
  await assign(api, face, person);
  return name;
}

export async function assign(api, face, person) {
  await api("POST", `${personPath(face.collection, person.subject_id)}/faces`, { face_ids: [face.face_id] });
  face.subject_id = person.subject_id;
  face.subject = person.name;
}

export async function unassign(api, face) {
  await api("DELETE", `${personPath(face.collection, face.subject_id)}/faces`, { face_ids: [face.face_id] });
  face.subject_id = null;
  face.subject = null;
}

// From now on searches by this person leave the face out.
export async function reject(api, face, subjectId) {
  await api("POST", `${personPath(face.collection, subjectId)}/rejections`, { face_ids: [face.face_id] });
  if (face.subject_id === subjectId) {
    face.subject_id = null;
    face.subject = null;
  }
}

export async function renamePerson(api, base, person) {
  const name = await askName("Rename this person", person.name ?? "");
  if (name) await api("PATCH", base, { name });
  return name !== "";
}

export async function removeMedia(api, path, item) {
  const sure = await ask("Delete this photo’s faces?", [
    element("p", { textContent: `${item.face_count} face(s) of “${item.title || item.media_id}” leave the index, and the CMS’s next run does not bring them back.` }),
  ], "Delete");
  if (!sure) return "";
  const gone = await api("DELETE", path);
  return `${gone.faces_deleted} face(s) deleted.`;
}

// Ask, erase, wait for the proof and show it; whether the person is gone.
export async function erasePerson(api, base, person) {
  const sure = await ask("Erase this person?", [
    element("p", { textContent: `Every face of ${person.name ?? person.subject_id} is removed and kept from coming back. This cannot be undone.` }),
  ], "Erase");
  if (!sure) return false;
  const { job_id: id } = await api("POST", `${base}/erase`);
  say("Erasing…");
  for (;;) {
    const job = await api("GET", `/v1/jobs/${id}`);
    if (job.state === "succeeded") {
      const receipt = element("pre", { textContent: JSON.stringify(job.result, null, 2), tabIndex: 0 });
      receipt.setAttribute("aria-label", "Receipt");
      receipt.setAttribute("role", "region");
      await tell("Erased, and verified", [element("p", { textContent: "This receipt says what was removed, and that it was looked for afterwards:" }), receipt]);
      return true;
    }
    if (["failed", "cancelled"].includes(job.state)) throw new ApiError(500, { detail: job.last_error ?? "The erasure did not finish." });
    say(job.waiting_for ? "Waiting for a worker; the faces are hidden already." : `Erasing: ${job.state}…`);
    await new Promise((done) => setTimeout(done, 1000));
  }
}
