// The health line.

import { show } from "./dom.js";

export async function watchHealth() {
  const line = document.getElementById("health");
  let wait = 30_000;
  try {
    const state = await (await fetch("/readyz")).json();
    const words = { ready: "Ready.", disabled: "Face recognition is switched off here." };
    line.dataset.state = state.status;
    show(line, words[state.status] ?? (Object.values(state.reasons).join(" ") || "Starting."));
    if (state.status !== "ready") wait = 3000;
  } catch {
    line.dataset.state = "degraded";
    show(line, "The service does not answer.");
    wait = 3000;
  }
  setTimeout(watchHealth, wait);
}
