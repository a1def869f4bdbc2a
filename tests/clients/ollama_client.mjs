// Ollama's own client for JavaScript.
import assert from "node:assert/strict";
import { Ollama } from "ollama";
import { ASKED, inPieces, run } from "./asking.mjs";

const llm = (url) => new Ollama({ host: url.replace(/\/v1$/, "") });
const asked = (model, messages, rest) => ({ model, messages, options: { temperature: 0 }, ...rest });
const user = (content) => ({ role: "user", content });
const TOOL = { type: "function", function: {
  name: "get_weather", description: "Get the weather in a city.",
  parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
} };
const PERSON = {
  type: "object", properties: { name: { type: "string" }, age: { type: "integer" } }, required: ["name", "age"],
};

async function chat(url, model) {
  const answer = await llm(url).chat(asked(model, [user(ASKED.say)]));
  assert.equal(answer.message.content, ASKED.said);
  assert.ok(answer.eval_count > 0);
}

async function stream(url, model) {
  const pieces = [];
  const answer = await llm(url).chat(asked(model, [user(ASKED.count)], { stream: true }));
  for await (const piece of answer) pieces.push(piece.message.content);
  inPieces(pieces, ASKED.counted);
}

async function tools(url, model) {
  const rest = { tools: [TOOL] };
  const said = (await llm(url).chat(asked(model, [user(ASKED.weather)], rest))).message;
  assert.deepEqual(said.tool_calls.map((call) => call.function.arguments), [{ city: ASKED.city }]);
  const result = { role: "tool", tool_name: "get_weather", content: ASKED.result };
  const after = await llm(url).chat(asked(model, [user(ASKED.weather), said, result], rest));
  assert.equal(after.message.content, ASKED.forecast);
}

async function structured(url, model) {
  const said = (await llm(url).chat(asked(model, [user(ASKED.person)], { format: PERSON }))).message.content;
  assert.deepEqual(JSON.parse(said), { name: ASKED.name, age: ASKED.age });
}

async function history(url, model) {
  const said = (await llm(url).chat(asked(model, [user(ASKED.introduction)]))).message;
  const messages = [user(ASKED.introduction), said, user(ASKED.question)];
  assert.match((await llm(url).chat(asked(model, messages))).message.content, new RegExp(ASKED.remembered));
}

async function models(url, model) {
  assert.ok((await llm(url).list()).models.some((one) => one.name === `${model}:latest`));
  assert.ok((await llm(url).show({ model })).capabilities.includes("completion"));
  const states = [];
  for await (const state of await llm(url).pull({ model, stream: true })) states.push(state.status);
  assert.equal(states.at(-1), "success");
  await llm(url).generate({ model, prompt: "", keep_alive: "5m" });
  assert.ok((await llm(url).ps()).models.some((one) => one.name === `${model}:latest`));
}

await run({ chat, stream, tools, structured, history, models });
