// Requests to the server of this page.

async function failure(response) {
  let message = `the server answered ${response.status}`;
  try {
    message = (await response.json()).error.message;
  } catch {
    // no JSON: the status has to do
  }
  const error = new Error(message);
  error.status = response.status;
  return error;
}

const GONE = "is `srr-guard playground` still running?";

async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error(`the server does not answer: ${GONE}`);
  }
  if (!response.ok) throw await failure(response);
  return response;
}

const json = (body, signal) => ({
  method: "POST",
  headers: { "content-type": "application/json" },
  body: JSON.stringify(body),
  signal,
});

export async function get(path) {
  return (await ask(path)).json();
}

export async function post(path, body, signal) {
  const response = await ask(path, json(body, signal));
  return response.status === 204 ? null : response.json();
}

/** Exchange the token of the printed link for a cookie that scripts cannot read. */
export async function enter() {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (!token) return;
  history.replaceState(null, "", location.pathname);
  await post("/api/session", { token });
}

async function next(reader) {
  try {
    return await reader.read();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    return { done: true };
  }
}

/** Run a prompt; `tell(name, data)` is called with each event as it comes; true: it came to its end. */
export async function stream(body, signal, tell) {
  const response = await ask("/api/run", json(body, signal));
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let last;
  for (;;) {
    const { done, value } = await next(reader);
    if (done) break;
    rest += value;
    const events = rest.split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const [first, second] = event.split("\n");
      last = first.slice("event: ".length);
      tell(last, JSON.parse(second.slice("data: ".length)));
    }
  }
  if (last !== "done" && last !== "error") throw new Error(`the server broke the run off: ${GONE}`);
  return last === "done";
}

/** Save the labelled answers as a file. */
export async function save() {
  const response = await ask("/api/export");
  const address = URL.createObjectURL(await response.blob());
  const link = document.createElement("a");
  link.href = address;
  link.download = "playground.jsonl";
  link.click();
  URL.revokeObjectURL(address);
}
