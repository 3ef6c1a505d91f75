// Writes every answer that the MCP server gets to the file ANSWERS, one JSON a line. Node loads it before the server.
// Some tools answer only "Successful tool call", so their answers cannot be seen elsewhere.

import { appendFileSync } from "node:fs";

const original = globalThis.fetch;
globalThis.fetch = async (url, init = {}) => {
  const response = await original(url, init);
  const type = response.headers.get("content-type") ?? "";
  const body = await response.clone().text();
  const answer = { method: init.method ?? "GET", url: String(url), status: response.status, type, body };
  appendFileSync(process.env.ANSWERS, `${JSON.stringify(answer)}\n`);
  return response;
};
