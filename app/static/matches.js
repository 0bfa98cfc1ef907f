// What was found: a list of faces with what can be done about each.

import { image } from "./api.js";
import { collectionPath } from "./address.js";
import { button, element } from "./dom.js";

let threshold = Number(document.getElementById("min_similarity").placeholder) || 0;

export function setThreshold(value) {
  threshold = value ?? threshold;
}

export function count(number, one, many = `${one}s`) {
  return `${number} ${number === 1 ? one : many}`;
}

export function thumbnailPath({ collection, image_id: id }) {
  return `${collectionPath(collection)}/thumbnails/${id}`;
}

function word(similarity) {
  if (similarity >= threshold + 0.5 * (1 - threshold)) return "very similar";
  return similarity >= threshold ? "similar" : "below the threshold";
}

// `acts(match, item)` gives the buttons of a match.
export function matchList(matches, acts) {
  const list = element("ol", { className: "matches" });
  list.append(...matches.map((match) => matchItem(match, acts)));
  if (matches.length) return list;
  return element("p", { textContent: "Nobody is similar enough. Lower the least similarity to see more." });
}

function matchItem(match, acts) {
  const item = element("li", { className: "match" });
  const body = element("div");
  const name = match.media.title || match.media_id;
  body.append(element("strong", { textContent: name, title: name }));
  const facts = element("p");
  facts.append(
    element("span", { className: "number", textContent: match.similarity.toFixed(2) }),
    ` ${word(match.similarity)}`,
  );
  body.append(facts);
  const about = [match.subject_id && (match.subject ?? match.subject_id), match.media.taken_at?.slice(0, 10)];
  const line = element("p", { textContent: about.filter(Boolean).join(" · ") });
  if (/^https?:\/\//.test(match.media.url ?? "")) {
    if (line.textContent) line.append(" · ");
    line.append(element("a", { href: match.media.url, textContent: "Source", rel: "noreferrer noopener", target: "_blank" }));
  }
  if (line.textContent) body.append(line);
  const row = element("p", { className: "row" });
  row.append(...acts(match, item));
  body.append(row);
  const picture = element("img", { alt: "", width: 96, height: 96, loading: "lazy" });
  image(picture, thumbnailPath(match));
  item.append(picture, body);
  return item;
}

// A photo of the gallery as a button.
export function tile(item, act) {
  const press = button("", act);
  press.title = item.title || item.media_id;
  const faces = count(item.face_count, "face");
  const picture = element("img", { alt: `${item.title || item.media_id}, ${faces}`, loading: "lazy" });
  picture.addEventListener("error", () => press.replaceChildren(`${faces}, no preview`), { once: true });
  image(picture, thumbnailPath(item));
  press.append(picture);
  return press;
}

export function danger(text, act) {
  const press = button(text, act);
  press.className = "danger";
  return press;
}
