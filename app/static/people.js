// What editors do to people and photos: each asks first, and says whether it was done.

import { ApiError } from "./api.js";
import { ask, element, say } from "./dom.js";

// `crypto.randomUUID` is there on https only.
function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

// The name that was saved, or null.
export async function nameFace(api, match) {
  const input = element("input", { id: "name-input", maxLength: 200, value: match.subject ?? "", required: true });
  const label = element("label", { textContent: "Name", htmlFor: "name-input" });
  if (!(await ask("Who is this?", [label, input], "Save"))) return null;
  const name = input.value.trim();
  if (!name) return null;
  const base = `/v1/collections/${encodeURIComponent(match.collection)}/subjects`;
  if (match.subject_id) {
    await api("PATCH", `${base}/${encodeURIComponent(match.subject_id)}`, { name });
  } else {
    const known = await api("GET", `${base}?limit=10&q=${encodeURIComponent(name)}`);
    let person = known.items.find((one) => one.name === name);
    person ??= await api("POST", base, { subject_id: newId(), name });
    await api("POST", `${base}/${encodeURIComponent(person.subject_id)}/faces`, { face_ids: [match.face_id] });
    match.subject_id = person.subject_id;
  }
  match.subject = name;
  return name;
}

export async function rejectFace(api, match) {
  const base = `/v1/collections/${encodeURIComponent(match.collection)}/subjects/${encodeURIComponent(match.subject_id)}`;
  await api("POST", `${base}/rejections`, { face_ids: [match.face_id] });
  match.subject_id = null;
  match.subject = null;
}

export async function removeMedia(api, path, item) {
  const sure = await ask("Delete this photo’s faces?", [
    element("p", { textContent: `${item.face_count} face(s) of “${item.title || item.media_id}” leave the index, and the CMS’s next run does not bring them back.` }),
  ], "Delete");
  if (!sure) return false;
  const gone = await api("DELETE", path);
  say(`${gone.faces_deleted} face(s) deleted.`);
  return true;
}

export async function erasePerson(api, base, person) {
  const sure = await ask("Erase this person?", [
    element("p", { textContent: `Every face of ${person.name ?? person.subject_id} is removed and kept from coming back. This cannot be undone.` }),
  ], "Erase");
  if (!sure) return false;
  let { job_id: id } = await api("POST", `${base}/erase`);
  say("Erasing…");
  for (;;) {
    const job = await api("GET", `/v1/jobs/${id}`);
    if (job.state === "succeeded") {
      await ask("Erased, and verified", [element("pre", { textContent: JSON.stringify(job.result, null, 2) })], "Close");
      break;
    }
    if (["failed", "cancelled"].includes(job.state)) throw new ApiError(500, { detail: job.last_error ?? "The erasure failed." });
    say(job.waiting_for ? "Waiting for a worker; the faces are hidden already." : `Erasing: ${job.state}…`);
    await new Promise((done) => setTimeout(done, 1000));
  }
  return true;
}
