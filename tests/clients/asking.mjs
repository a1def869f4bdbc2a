// What every JavaScript client is asked; test_clients.py runs the clients in a folder that has their packages.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";

export const ASKED = JSON.parse(readFileSync(new URL("asked.json", import.meta.url), "utf8"));
export const KEY = "none";

// Run every check with every model, and print a line for each: the fault, or null.
export async function run(checks) {
  const [url, ...models] = process.argv.slice(2);
  for (const model of models) {
    for (const [check, ask] of Object.entries(checks)) {
      let fault = null;
      try {
        await ask(`${url}/v1`, model);
      } catch (error) {
        fault = `${error.stack}\n${error.responseBody ?? ""}`;
      }
      console.log(JSON.stringify({ model, check, fault }));
    }
  }
}

export function inPieces(pieces, expected) {
  assert.equal(pieces.join(""), expected);
  assert.ok(pieces.filter(Boolean).length > 1, JSON.stringify(pieces));
}
