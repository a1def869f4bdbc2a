// Checks of client.js and react.js, run by test_native_scripts.py: argv is the URL of the server and of a proxy that
// cuts connections, and the folder of the scripts. Prints one JSON object.

import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import { join } from "node:path";

const [url, cut, folder] = process.argv.slice(2);
const { Client, EventReader, ServerError } = await import(pathToFileURL(join(folder, "client.js")).href);
const { useChat } = await import(pathToFileURL(join(folder, "react.js")).href);
const react = await import(createRequire(join(folder, "react.js")).resolve("react"));
const found = {};

async function all(answer) {
  const events = [];
  for await (const event of answer) events.push(event);
  return events;
}

const text = (events) => events.filter((one) => one.type === "text").map((one) => one.text).join("");

async function failure(act) {
  try {
    await act();
  } catch (error) {
    return { name: error.name, code: error.code, status: error.status, ours: error instanceof ServerError };
  }
  return null;
}

const client = new Client({ url: `${url}/v1/` });
const called = await all(client.chat({ model: "bot", message: "call", tools: [{ name: "add" }] }));
found.call = called.find((one) => one.type === "call");
found.types = [...new Set((await all(client.chat({ model: "bot", message: "think" }))).map((one) => one.type))];
found.models = (await client.models()).map((one) => one.id);
found.loaded = (await all(client.load("bot"))).at(-1).state;
found.unloaded = (await client.unload("bot")).model;
found.refused = await failure(() => all(client.chat({ model: "none", message: "Hi" })));
found.failed = await failure(() => all(client.chat({ model: "bot", message: "fail" })));
found.unreachable = await failure(() => new Client({ url: "http://127.0.0.1:1" }).models());
found.resumed = text(await all(new Client({ url: cut }).chat({ model: "slow", message: "Hi" })));

const kept = await all(client.chat({ model: "bot", message: "think", conversation: "new" }));
found.kept = (await client.conversation(kept.at(-1).conversation)).message_count;
await client.deleteConversation(kept.at(-1).conversation);
found.deleted = (await failure(() => client.conversation(kept.at(-1).conversation))).status;

const running = async () => (await (await fetch(url, { headers: { Accept: "application/json" } })).json()).requests.running;
const idle = async () => {
  while (await running()) await new Promise((resolve) => setTimeout(resolve, 5));
};
for await (const event of client.chat({ model: "bot", message: "hang" })) {
  if (event.type === "text") break;
}
await idle();
const controller = new AbortController();
found.aborted = await failure(async () => {
  for await (const event of client.chat({ model: "bot", message: "hang" }, { signal: controller.signal })) {
    if (event.type === "text") controller.abort();
  }
});
await idle();

const data = new TextEncoder().encode('id: a-0\nevent: text\ndata: {"text":"\u00e4\u20ac"}\n\n: ping\n\ndata: x\n\n');
const reader = new EventReader();
found.read = [...data].flatMap((byte) => reader.read(Uint8Array.of(byte)));

// -- the hook, in a component that is rendered again at each change of its state
let hook;
const page = react.mount(() => {
  hook = useChat({ client, model: "bot", conversation: "new" });
});
await hook.send("think");
found.said = hook.messages;
await hook.send("again");
found.count = (await client.conversation(hook.conversation)).message_count;
found.status = hook.status;
const sending = hook.send("hang");
while (hook.messages.at(-1).content === "") await new Promise((resolve) => setTimeout(resolve, 5));
hook.stop();
await sending;
found.stopped = hook.messages.slice(4);
while ((await client.conversation(hook.conversation)).message_count !== 6);
await hook.send("fail");
found.error = hook.error.code;
found.after = hook.messages.length;
page.unmount();

console.log(JSON.stringify(found));
