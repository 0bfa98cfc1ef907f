// A photo with a box over each face; each box is a button.

import { button, element } from "./dom.js";

const SVG = "http://www.w3.org/2000/svg";

function shape(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

// `faces` and `others` have a box in the pixels of `size`; `label(face, index)` names a button. The
// frame comes with `choose(index)`, which marks a face as the one that is looked at.
export function photoFrame({ picture, size, faces, others = [], label, act }) {
  const frame = element("div", { className: "frame" });
  frame.append(picture);
  const svg = shape("svg", {
    class: "boxes",
    viewBox: `0 0 ${size.width} ${size.height}`,
    preserveAspectRatio: "none",
    "aria-hidden": "true",
  });
  const rects = faces.map(({ box }) => shape("rect", { ...box, class: "searched" }));
  svg.append(...rects, ...others.map(({ box }) => shape("rect", { ...box, class: "other" })));
  frame.append(svg);
  const presses = faces.map((face, index) => place(label(face, index), face.box, size, index, act));
  frame.append(...presses);
  const choose = (chosen) => {
    presses.forEach((press, at) => press.setAttribute("aria-pressed", String(at === chosen)));
    rects.forEach((rect, at) => rect.classList.toggle("chosen", at === chosen));
  };
  return { frame, choose };
}

function place(label, box, size, index, act) {
  const press = button("", () => act(index));
  press.className = "face-button";
  press.setAttribute("aria-label", label);
  press.title = label;
  press.append(element("span", { textContent: String(index + 1) }));
  // Positions by script, not by a style attribute: the content security policy forbids those.
  press.style.setProperty("left", `${(100 * box.x) / size.width}%`);
  press.style.setProperty("top", `${(100 * box.y) / size.height}%`);
  press.style.setProperty("width", `${(100 * box.width) / size.width}%`);
  press.style.setProperty("height", `${(100 * box.height) / size.height}%`);
  return press;
}
