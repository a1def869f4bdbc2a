// A client of the native chat of lllms, for web pages and Node.js: one module without dependencies.
// SPDX-License-Identifier: MIT
//
//     import { Client } from "http://127.0.0.1:3000/api/v1/client.js";
//
//     const client = new Client();                       // the server that this module came from
//     for await (const event of client.chat({ model: "tiny-chat", message: "Hi!" })) {
//       if (event.type === "text") console.log(event.text);
//     }
//
// Each event is the data of an event of POST /api/v1/chat, with its `type`: queued, loading, prompt, thoughts, text,
// call, usage, done. If the connection breaks, the answer is resumed where it broke. Errors are thrown as ServerError.

const TRIES = 4; // within the time that the server waits for a reader to return
const PAUSE = 250; // milliseconds before the second try, doubled for each further one

/** The server cannot be reached, or answers with an error. */
export class ServerError extends Error {
  /** `code`, `parameter`, `retryAfter` (seconds) are the server's own; `status` is that of HTTP, 0 without an answer. */
  constructor(message, { code = "unreachable", parameter = null, retryAfter = null, status = 0, cause } = {}) {
    super(message, { cause });
    this.name = "ServerError";
    Object.assign(this, { code, parameter, retryAfter, status });
  }
}

/** Reads server-sent events from pieces of bytes, which may be cut anywhere. */
export class EventReader {
  #decoder = new TextDecoder();
  #rest = "";

  /** Return the complete events so far, as `{id, type, data}`. */
  read(bytes) {
    const lines = (this.#rest + this.#decoder.decode(bytes, { stream: true })).split("\n\n");
    this.#rest = lines.pop();
    return lines.map(parse).filter((event) => event.data !== "");
  }
}

function parse(block) {
  const event = { id: "", type: "message", data: "" };
  for (const line of block.split("\n")) {
    const at = line.indexOf(":");
    const name = at < 0 ? line : line.slice(0, at);
    const value = at < 0 ? "" : line.slice(at + 1).replace(/^ /, "");
    if (name === "data") event.data += (event.data === "" ? "" : "\n") + value;
    else if (name === "event") event.type = value;
    else if (name === "id") event.id = value;
  }
  return event;
}

/** A server; `fetch` stands in for the built-in one, if given. */
export class Client {
  #fetch;

  constructor({ url = new URL("../..", import.meta.url).href, apiKey = null, fetch = globalThis.fetch } = {}) {
    this.url = url.replace(/\/+$/, "").replace(/(\/api)?\/v1$/, "");
    this.headers = apiKey === null ? {} : { Authorization: `Bearer ${apiKey}` };
    this.#fetch = (...given) => fetch(...given);
  }

  /**
   * Ask, and yield the events of the answer.
   *
   * `request` is the body of POST /api/v1/chat: `model`, `message` or `messages`, `system`, `conversation`, `tools`,
   * `temperature` and so on. Leaving the loop early, or aborting `signal`, stops the answer; the latter throws the
   * signal's reason.
   */
  async *chat(request, { signal } = {}) {
    let last = "";
    let tries = 0;
    let ended = false;
    try {
      while (!ended) {
        try {
          const response = last === "" ? await this.#post(request, signal) : await this.#resume(last, signal);
          for await (const event of this.#events(response)) {
            if (event.id !== "") last = event.id;
            tries = 0;
            const value = { type: event.type, ...JSON.parse(event.data) };
            ended = value.type === "done" || value.type === "error";
            if (value.type === "error") throw failure(value, 200);
            yield value;
          }
          if (!ended) throw new ServerError("the answer ended early");
        } catch (error) {
          signal?.throwIfAborted();
          const broken = error instanceof ServerError && error.status === 0;
          tries += 1;
          if (ended || !broken || last === "" || tries > TRIES) throw error;
          await pause(PAUSE * 2 ** (tries - 1), signal);
        }
      }
    } finally {
      if (!ended && last !== "") await this.#stop(last);
    }
  }

  /** Return the models that can be served. */
  async models() {
    return (await this.#json("GET", "/v1/models")).data;
  }

  /** Load a model, and yield how far that is; the last value has `state` "loaded". */
  async *load(model, { ttl = null, signal } = {}) {
    const path = `/api/v1/models/${encodeURIComponent(model)}/load`;
    const body = { stream: true, ...(ttl === null ? {} : { ttl }) };
    for await (const event of this.#events(await this.#send("POST", path, { body, signal }))) {
      const value = JSON.parse(event.data);
      if (value.error) throw failure(value.error, 200);
      yield value;
    }
  }

  /** Unload a model; busy instances end once they are idle. */
  async unload(model) {
    return this.#json("POST", `/api/v1/models/${encodeURIComponent(model)}/unload`, {});
  }

  /** Return a conversation that the server keeps, with its messages. */
  async conversation(id) {
    return this.#json("GET", `/api/v1/conversations/${encodeURIComponent(id)}`);
  }

  /** Delete a conversation that the server keeps. */
  async deleteConversation(id) {
    await this.#json("DELETE", `/api/v1/conversations/${encodeURIComponent(id)}`);
  }

  #post(request, signal) {
    return this.#send("POST", "/api/v1/chat", { body: { ...request, stream: true }, signal });
  }

  #resume(last, signal) {
    return this.#send("GET", chatPath(last), { headers: { "Last-Event-ID": last }, signal });
  }

  async #stop(last) {
    try {
      await this.#send("DELETE", chatPath(last), { keepalive: true });
    } catch {
      // Out of reach, or gone: the server stops an answer without readers by itself.
    }
  }

  async *#events(response) {
    const reader = new EventReader();
    const body = response.body.getReader();
    try {
      while (true) {
        const { done, value } = await reached(body.read());
        if (done) return;
        yield* reader.read(value);
      }
    } finally {
      body.cancel().catch(() => {});
    }
  }

  async #json(method, path, body) {
    const response = await this.#send(method, path, { body });
    return reached(response.json());
  }

  async #send(method, path, { body, headers = {}, ...options }) {
    const response = await reached(this.#fetch(this.url + path, {
      method, ...options, body: body === undefined ? undefined : JSON.stringify(body),
      headers: { ...this.headers, ...headers, ...(body === undefined ? {} : { "Content-Type": "application/json" }) },
    }));
    if (response.ok && response.status !== 204) return response;
    const told = await response.json().catch(() => ({}));
    throw failure(told.error ?? { code: "http", message: `the server answers ${response.status}` }, response.status);
  }
}

function chatPath(eventId) {
  return `/api/v1/chat/${encodeURIComponent(eventId.slice(0, eventId.lastIndexOf("-")))}`;
}

function failure({ code, message, parameter, param, retry_after: retryAfter = null }, status) {
  return new ServerError(message, { code, parameter: parameter ?? param ?? null, retryAfter, status });
}

async function reached(promise) {
  try {
    return await promise;
  } catch (cause) {
    throw new ServerError(`the connection to the server failed: ${cause.message}`, { cause });
  }
}

function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const leave = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", leave);
      resolve();
    }, milliseconds);
    signal?.addEventListener("abort", leave, { once: true });
  });
}
