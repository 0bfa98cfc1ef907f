// The address holds the filters and what is looked at: links and the back button lead there.

export const form = document.getElementById("search");

const fields = ["collection", "min_similarity", "limit", "subject", "taken_from", "taken_before"];
const checks = ["one_per_media", "unnamed"];
const usual = { collection: "default", limit: "10" };
const subjects = ["face_id", "media_id", "person", "like"];

// Set the form by the address; what is looked at, as { face_id } or the like.
export function readAddress() {
  const query = new URLSearchParams(location.search);
  for (const name of fields) form.elements[name].value = query.get(name) ?? usual[name] ?? "";
  for (const name of checks) form.elements[name].checked = query.get(name) === "1";
  return target();
}

// What the address says is looked at; {} is the gallery.
export function target() {
  const query = new URLSearchParams(location.search);
  const name = subjects.find((one) => query.has(one));
  return name ? { [name]: query.get(name) } : {};
}

export function goTo(extra, state = null) {
  const query = new URLSearchParams();
  for (const name of fields) {
    const value = form.elements[name].value.trim();
    if (value !== (usual[name] ?? "")) query.set(name, value);
  }
  for (const name of checks) if (form.elements[name].checked) query.set(name, "1");
  for (const [name, value] of Object.entries(extra)) query.set(name, value);
  const text = query.toString();
  history.pushState(state, "", text ? `?${text}` : location.pathname);
}

export function isFilter(name) {
  return fields.includes(name) || checks.includes(name);
}

export function collection() {
  return form.elements.collection.value.trim() || "default";
}

export function collectionPath(name = collection()) {
  return `/v1/collections/${encodeURIComponent(name)}`;
}

// The form's filters as a search request has them.
export function wishes() {
  const at = (name) => form.elements[name].value.trim();
  const filter = {};
  const taken = {};
  if (at("taken_from")) taken.$gte = at("taken_from");
  if (at("taken_before")) taken.$lt = at("taken_before");
  if (Object.keys(taken).length) filter.taken_at = taken;
  if (at("subject")) filter.subject_id = at("subject");
  const wish = {
    collection: collection(),
    limit: Number(at("limit") || 10),
    group_by: form.elements.one_per_media.checked ? "media" : "face",
    assigned: form.elements.unnamed.checked ? "none" : "any",
  };
  if (at("min_similarity")) wish.min_similarity = Number(at("min_similarity"));
  if (Object.keys(filter).length) wish.filter = filter;
  return wish;
}
