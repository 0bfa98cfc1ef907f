// The health line.

import { show } from "./dom.js";

const words = { ready: "Ready.", disabled: "Face recognition is switched off here." };

// Keeps the line true; `told` hears each time what `/readyz` says.
export async function watchHealth(told) {
  const line = document.getElementById("health");
  let wait = 30_000;
  try {
    const state = await (await fetch("/state")).json();
    line.dataset.state = state.status;
    show(line, words[state.status] ?? (Object.values(state.reasons).join(" ") || "Starting."));
    if (!(state.status in words)) wait = 3000;
    told(state);
  } catch {
    line.dataset.state = "degraded";
    show(line, "The service does not answer.");
    wait = 3000;
  }
  setTimeout(() => watchHealth(told), wait);
}
