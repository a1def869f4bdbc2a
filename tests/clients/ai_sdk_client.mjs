// The Vercel AI SDK with its provider for servers that speak OpenAI's API.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { checks } from "./ai_sdk.mjs";
import { KEY, run } from "./asking.mjs";

const form = { name: "lllms", apiKey: KEY, supportsStructuredOutputs: true, includeUsage: true };
await run(checks((baseURL, model) => createOpenAICompatible({ ...form, baseURL })(model)));
