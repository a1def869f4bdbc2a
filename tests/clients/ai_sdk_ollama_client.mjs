// The Vercel AI SDK with a provider for Ollama.
import assert from "node:assert/strict";
import { Output, generateText, stepCountIs, streamText, tool } from "ai";
import { createOllama } from "ollama-ai-provider-v2";
import { z } from "zod";
import { ASKED, inPieces, run } from "./asking.mjs";

globalThis.AI_SDK_LOG_WARNINGS = false;
const Person = z.object({ name: z.string(), age: z.number().int() });
const llm = (url, model) => createOllama({ baseURL: url.replace(/\/v1$/, "/api") })(model);
const asked = (url, model, rest) => ({ model: llm(url, model), temperature: 0, maxRetries: 0, ...rest });
const offered = {
  get_weather: tool({
    description: "Get the weather in a city.", inputSchema: z.object({ city: z.string() }),
    execute: ({ city }) => {
      assert.equal(city, ASKED.city);
      return ASKED.result;
    },
  }),
};

async function chat(url, model) {
  const answer = await generateText(asked(url, model, { prompt: ASKED.say }));
  assert.equal(answer.text, ASKED.said);
  assert.equal(answer.finishReason, "stop");
}

async function stream(url, model) {
  const pieces = [];
  for await (const piece of streamText(asked(url, model, { prompt: ASKED.count })).textStream) pieces.push(piece);
  inPieces(pieces, ASKED.counted);
}

async function tools(url, model) {
  const rounds = { prompt: ASKED.weather, tools: offered, stopWhen: stepCountIs(3) };
  assert.equal((await generateText(asked(url, model, rounds))).text, ASKED.forecast);
  assert.equal(await streamText(asked(url, model, rounds)).text, ASKED.forecast);
}

async function structured(url, model) {
  const answer = await generateText(asked(url, model, {
    prompt: ASKED.person, output: Output.object({ schema: Person }),
  }));
  assert.deepEqual(answer.output, { name: ASKED.name, age: ASKED.age });
}

async function history(url, model) {
  const first = [{ role: "user", content: ASKED.introduction }];
  const said = await generateText(asked(url, model, { messages: first }));
  const messages = [...first, ...said.response.messages, { role: "user", content: ASKED.question }];
  assert.match((await generateText(asked(url, model, { messages }))).text, new RegExp(ASKED.remembered));
}

await run({ chat, stream, tools, structured, history });
