// What the Vercel AI SDK is asked, with any provider: a function of a base URL and a model's name.
import assert from "node:assert/strict";
import { Output, generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";
import { ASKED, inPieces } from "./asking.mjs";

globalThis.AI_SDK_LOG_WARNINGS = false;
const Person = z.object({ name: z.string(), age: z.number().int() });

export function checks(llm) {
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
    const answer = streamText(asked(url, model, { prompt: ASKED.count }));
    const pieces = [];
    for await (const piece of answer.textStream) pieces.push(piece);
    inPieces(pieces, ASKED.counted);
    assert.ok((await answer.usage).outputTokens > 1);
  }

  async function tools(url, model) {
    for (const toolChoice of ["auto", "required", { type: "tool", toolName: "get_weather" }]) {
      const called = await generateText(asked(url, model, { prompt: ASKED.weather, tools: offered, toolChoice }));
      assert.deepEqual(called.toolCalls.map((call) => [call.toolName, call.input]), [["get_weather", { city: ASKED.city }]]);
    }
    const rounds = { prompt: ASKED.weather, tools: offered, stopWhen: stepCountIs(3) };
    assert.equal((await generateText(asked(url, model, rounds))).text, ASKED.forecast);
    assert.equal(await streamText(asked(url, model, rounds)).text, ASKED.forecast);
  }

  async function structured(url, model) {
    const output = Output.object({ schema: Person });
    const answer = await generateText(asked(url, model, { prompt: ASKED.person, output }));
    assert.deepEqual(answer.output, { name: ASKED.name, age: ASKED.age });
    const partial = streamText(asked(url, model, { prompt: ASKED.person, output }));
    let last;
    for await (const one of partial.partialOutputStream) last = one;
    assert.deepEqual(last, { name: ASKED.name, age: ASKED.age });
  }

  async function history(url, model) {
    const first = [{ role: "user", content: ASKED.introduction }];
    const said = await generateText(asked(url, model, { messages: first }));
    const messages = [...first, ...said.response.messages, { role: "user", content: ASKED.question }];
    assert.match((await generateText(asked(url, model, { messages }))).text, new RegExp(ASKED.remembered));
  }

  return { chat, stream, tools, structured, history };
}
