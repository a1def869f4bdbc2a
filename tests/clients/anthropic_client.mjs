// The official client of Anthropic's API for node: create, stream, parse, and the tool runner.
import assert from "node:assert/strict";
import Anthropic from "@anthropic-ai/sdk";
import { betaZodTool } from "@anthropic-ai/sdk/helpers/beta/zod";
import { zodOutputFormat } from "@anthropic-ai/sdk/helpers/zod";
import { z } from "zod";
import { ASKED, KEY, inPieces, run } from "./asking.mjs";

const client = (url) => new Anthropic({ baseURL: url.replace(/\/v1$/, ""), apiKey: KEY, maxRetries: 0 });
const user = (content) => ({ role: "user", content });
const cold = { max_tokens: 1000, temperature: 0 };
const tool = {
  name: "get_weather", description: "Get the weather in a city.",
  input_schema: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
};
const Person = z.object({ name: z.string(), age: z.number().int() });

async function chat(url, model) {
  const messages = [user(ASKED.say)];
  const answer = await client(url).messages.create({ ...cold, model, messages });
  assert.deepEqual([answer.content[0].text, answer.stop_reason], [ASKED.said, "end_turn"]);
  const counted = await client(url).messages.countTokens({ model, messages });
  assert.equal(counted.input_tokens, answer.usage.input_tokens + answer.usage.cache_read_input_tokens);
  const ids = [];
  for await (const one of client(url).models.list()) ids.push(one.id);
  assert.ok(ids.includes(model));
}

async function stream(url, model) {
  const pieces = [];
  const answer = client(url).messages.stream({ ...cold, model, messages: [user(ASKED.count)] });
  answer.on("text", (piece) => pieces.push(piece));
  assert.equal((await answer.finalMessage()).content[0].text, ASKED.counted);
  inPieces(pieces, ASKED.counted);
}

async function tools(url, model) {
  const messages = [user(ASKED.weather)];
  for (const tool_choice of [{ type: "auto" }, { type: "any" }, { type: "tool", name: tool.name }]) {
    const asked = { ...cold, model, messages, tools: [tool], tool_choice };
    const streamed = await client(url).messages.stream(asked).finalMessage();
    for (const said of [await client(url).messages.create(asked), streamed]) {
      const [call] = said.content.filter((block) => block.type === "tool_use");
      assert.deepEqual([call.name, call.input, said.stop_reason], [tool.name, { city: ASKED.city }, "tool_use"]);
      const result = user([{ type: "tool_result", tool_use_id: call.id, content: ASKED.result }]);
      const given = [...messages, { role: "assistant", content: said.content }, result];
      const after = await client(url).messages.create({ ...cold, model, tools: [tool], messages: given });
      assert.equal(after.content.at(-1).text, ASKED.forecast);
    }
  }
}

async function toolRunner(url, model) {
  const runs = betaZodTool({
    name: tool.name, description: tool.description, inputSchema: z.object({ city: z.string() }),
    run: ({ city }) => {
      assert.equal(city, ASKED.city);
      return ASKED.result;
    },
  });
  for (const stream of [false, true]) {
    const asked = { ...cold, model, messages: [user(ASKED.weather)], tools: [runs], stream };
    const last = await client(url).beta.messages.toolRunner(asked).runUntilDone();
    assert.equal(last.content.at(-1).text, ASKED.forecast);
  }
}

async function structured(url, model) {
  const output_config = { format: zodOutputFormat(Person) };
  const said = await client(url).messages.parse({ ...cold, model, messages: [user(ASKED.person)], output_config });
  assert.deepEqual(said.parsed_output, { name: ASKED.name, age: ASKED.age });
}

async function history(url, model) {
  const said = await client(url).messages.create({ ...cold, model, messages: [user(ASKED.introduction)] });
  const messages = [user(ASKED.introduction), { role: "assistant", content: said.content }, user(ASKED.question)];
  const again = await client(url).messages.create({ ...cold, model, messages });
  assert.match(again.content.at(-1).text, new RegExp(ASKED.remembered));
}

await run({ chat, stream, tools, toolRunner, structured, history });
