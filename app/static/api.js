// Calls to the API. The key lives in this module's memory and nowhere else.

let key = "";

export class ApiError extends Error {
  constructor(status, problem) {
    super(problem.detail ?? `The service answered with status ${status}.`);
    this.status = status;
    this.code = problem.code ?? "";
    this.detail = this.message;
  }
}

export function needsKey() {
  return document.getElementById("api_key") !== null;
}

export function hasKey() {
  return key !== "";
}

export function enterKey(text) {
  key = (text ?? "").trim();
}

function headers(more = {}) {
  return key ? { ...more, "X-API-Key": key } : more;
}

export async function api(method, path, body, signal) {
  const options = { method, headers: headers(), signal };
  if (body instanceof FormData) {
    options.body = body;
  } else if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers = headers({ "Content-Type": "application/json" });
  }
  const response = await reach(path, options);
  const isJson = (response.headers.get("content-type") ?? "").includes("json");
  const data = isJson ? await response.json() : {};
  if (!response.ok) throw new ApiError(response.status, data);
  return data;
}

// A request for what is asked again and again: { data, etag }, or null when nothing has changed.
export async function poll(path, etag) {
  const response = await reach(path, { headers: headers(etag ? { "If-None-Match": etag } : {}) });
  if (response.status === 304) return null;
  const data = await response.json();
  if (!response.ok) throw new ApiError(response.status, data);
  return { data, etag: response.headers.get("etag") };
}

async function reach(path, options) {
  try {
    return await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, { detail: "The service did not answer. Is it still running?" });
  }
}

// A thumbnail. With a key it cannot be a plain `src`: an <img> sends no headers.
export async function image(target, path) {
  if (!key) {
    target.src = path;
    return;
  }
  try {
    const response = await fetch(path, { headers: headers() });
    if (!response.ok) return;
    const url = URL.createObjectURL(await response.blob());
    target.addEventListener("load", () => URL.revokeObjectURL(url), { once: true });
    target.src = url;
  } catch {
    // A missing thumbnail is no reason to stop.
  }
}
