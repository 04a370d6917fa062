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

async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("the server does not answer: is `srr-guard playground` still running?");
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

/** Run a prompt; `tell(name, data)` is called with each event as it comes. */
export async function stream(body, signal, tell) {
  const response = await ask("/api/run", json(body, signal));
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    rest += value;
    const events = rest.split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const [first, second] = event.split("\n");
      tell(first.slice("event: ".length), JSON.parse(second.slice("data: ".length)));
    }
  }
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
