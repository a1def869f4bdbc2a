// The official client for node: create, stream, parse and runTools.
import assert from "node:assert/strict";
import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";
import { ASKED, KEY, inPieces, run } from "./asking.mjs";

const client = (baseURL) => new OpenAI({ baseURL, apiKey: KEY, maxRetries: 0 }).chat.completions;
const user = (content) => ({ role: "user", content });
const parameters = {
  type: "object", properties: { city: { type: "string" } }, required: ["city"], additionalProperties: false,
};
const description = { name: "get_weather", description: "Get the weather in a city.", parameters };
const Person = z.object({ name: z.string(), age: z.number().int() });

async function chat(url, model) {
  const answer = await client(url).create({ model, messages: [user(ASKED.say)], temperature: 0 });
  assert.equal(answer.choices[0].message.content, ASKED.said);
}

async function stream(url, model) {
  const asked = { model, messages: [user(ASKED.count)], temperature: 0 };
  const pieces = [];
  for await (const chunk of await client(url).create({ ...asked, stream: true })) {
    pieces.push(chunk.choices[0]?.delta?.content ?? "");
  }
  inPieces(pieces, ASKED.counted);
  assert.equal(await client(url).stream(asked).finalContent(), ASKED.counted);
}

async function tools(url, model) {
  const named = { type: "function", function: { name: "get_weather" } };
  for (const [tool_choice, strict] of [["auto", false], ["required", false], [named, false], ["auto", true]]) {
    const asked = { model, temperature: 0, tools: [{ type: "function", function: { ...description, strict } }] };
    const messages = [user(ASKED.weather)];
    const whole = (await client(url).create({ ...asked, messages, tool_choice })).choices[0].message;
    const streamed = await client(url).stream({ ...asked, messages, tool_choice }).finalMessage();
    for (const said of [whole, streamed]) {
      assert.equal(said.tool_calls.length, 1);
      const [call] = said.tool_calls;
      assert.deepEqual([call.function.name, JSON.parse(call.function.arguments)], ["get_weather", { city: ASKED.city }]);
      const result = { role: "tool", tool_call_id: call.id, content: ASKED.result };
      const after = await client(url).create({ ...asked, messages: [...messages, said, result] });
      assert.equal(after.choices[0].message.content, ASKED.forecast);
    }
  }
}

async function runTools(url, model) {
  const given = { ...description, parse: JSON.parse, function: () => ASKED.result };
  const asked = { model, temperature: 0, messages: [user(ASKED.weather)], tools: [{ type: "function", function: given }] };
  assert.equal(await client(url).runTools(asked).finalContent(), ASKED.forecast);
  assert.equal(await client(url).runTools({ ...asked, stream: true }).finalContent(), ASKED.forecast);
}

async function structured(url, model) {
  const asked = { model, temperature: 0, response_format: zodResponseFormat(Person, "person") };
  const said = (await client(url).parse({ ...asked, messages: [user(ASKED.person)] })).choices[0].message;
  assert.deepEqual(said.parsed, { name: ASKED.name, age: ASKED.age });
  const again = { model, temperature: 0, messages: [user(ASKED.person), said, user(ASKED.say)] };
  assert.equal((await client(url).create(again)).choices[0].message.content, ASKED.said);
}

async function history(url, model) {
  const messages = [user(ASKED.introduction)];
  const said = (await client(url).create({ model, temperature: 0, messages })).choices[0].message;
  const again = { model, temperature: 0, messages: [...messages, said, user(ASKED.question)] };
  assert.match((await client(url).create(again)).choices[0].message.content, new RegExp(ASKED.remembered));
}

await run({ chat, stream, tools, runTools, structured, history });
