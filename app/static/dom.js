// Small pieces of document, and the one dialog. Text is always set as text, never as markup.

export function element(name, properties = {}) {
  return Object.assign(document.createElement(name), properties);
}

export function button(text, act) {
  const made = element("button", { type: "button", textContent: text });
  made.addEventListener("click", act);
  return made;
}

export function show(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

export function say(text, wrong = false) {
  const status = document.getElementById("status");
  status.classList.toggle("error", wrong);
  status.textContent = text;
}

// Tell in the dialog; done when it was closed.
export function tell(title, parts) {
  return ask(title, parts, "Close", true);
}

// Ask in the dialog; true when it was confirmed.
export function ask(title, parts, ok, only = false) {
  document.getElementById("dialog-cancel").hidden = only;
  const dialog = document.getElementById("dialog");
  document.getElementById("dialog-title").textContent = title;
  document.getElementById("dialog-body").replaceChildren(...parts);
  document.getElementById("dialog-ok").textContent = ok;
  dialog.returnValue = "";
  const before = document.activeElement;
  dialog.showModal();
  (dialog.querySelector("input") ?? document.getElementById("dialog-ok")).focus();
  return new Promise((done) => {
    const over = new AbortController();
    const end = (sure) => {
      over.abort();
      setTimeout(() => { // once the dialog is closed
        before?.focus();
        done(sure);
      });
    };
    const { signal } = over;
    dialog.addEventListener("submit", (event) => end(event.submitter?.value === "ok"), { signal });
    // A late event of the dialog before this one finds it open.
    dialog.addEventListener("close", () => { if (!dialog.open) end(dialog.returnValue === "ok"); }, { signal });
  });
}
