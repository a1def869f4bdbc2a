// The Vercel AI SDK with its own provider for OpenAI, which speaks Responses.
import { createOpenAI } from "@ai-sdk/openai";
import { checks } from "./ai_sdk.mjs";
import { KEY, run } from "./asking.mjs";

await run(checks((baseURL, model) => createOpenAI({ apiKey: KEY, baseURL })(model)));
