// Starts Replicate's MCP server as a chat program does, and calls its tools.
// Writes JSON to stdout: the names of the tools, and each call's tool, result or error, and answers of the API.
// test_mcp_server.py checks them.

import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StdioClientTransport } from "@modelcontextprotocol/sdk/client/stdio.js";

const { BASE_URL, TOKEN, VERSIONS, UPLOAD } = process.env;
const versions = JSON.parse(VERSIONS);
const upload = JSON.parse(UPLOAD); // as the API describes an uploaded file
const directory = mkdtempSync(join(tmpdir(), "mcp-"));
const ANSWERS = join(directory, "answers");
const transport = new StdioClientTransport({
  command: process.execPath,
  args: ["--import", "./record.mjs", "node_modules/replicate-mcp/index.js", "--tools=all", "--tools=dynamic"],
  env: { PATH: process.env.PATH, REPLICATE_API_TOKEN: TOKEN, REPLICATE_BASE_URL: `${BASE_URL}/v1`, ANSWERS },
  stderr: "ignore",
});
const client = new Client({ name: "tests", version: "1" });
await client.connect(transport);

const answers = () => {
  try {
    return readFileSync(ANSWERS, "utf8").trim().split("\n").map((line) => JSON.parse(line));
  } catch {
    return [];
  }
};
const calls = {};

// Calls a tool, stores the call under `key`, and returns its result: a file's bytes in base64, or what the JSON states.
async function call(key, name, args = {}) {
  const before = answers().length;
  calls[key] = { tool: name };
  try {
    const { content } = await client.callTool({ name, arguments: args });
    calls[key].value = content[0].resource?.blob ?? JSON.parse(content[0].text);
  } catch (error) {
    calls[key].error = error.message;
  }
  calls[key].answers = answers().slice(before);
  return calls[key].value;
}

// Reads a prediction until it has another status than these.
async function callWhile(key, statuses, { id }) {
  const deadline = Date.now() + 60_000;
  do {
    const prediction = await call(key, "get_predictions", { prediction_id: id });
    if (!statuses.includes(prediction?.status)) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  } while (Date.now() < deadline);
}

const text = { model_owner: "test", model_name: "text" };
const file = { model_owner: "test", model_name: "file" };
const signed = new URL(upload.urls.download).searchParams;
const download = {
  file_id: upload.id,
  owner: signed.get("owner"),
  expiry: Number(signed.get("expiry")),
  signature: signed.get("signature"),
};
const other = (name) => ({ [name]: "unknown" });
// The MCP server parses arguments that are JSON, so an id of digits only would be a number without its quotes.
const quoted = JSON.stringify(versions.text);
const version = `test/text:${versions.text}`;

const created = await call("created", "create_predictions", { version, input: { text: "out" } });
await callWhile("ended", ["starting", "processing"], created);
await call("waited", "create_models_predictions", { ...text, input: { text: "waited" }, Prefer: "wait" });
const ofAFile = await call("ofAFile", "create_models_predictions", { ...file, input: { content: "abc" } });
await callWhile("endedOfAFile", ["starting", "processing"], ofAFile);
await call("failed", "create_predictions", { version, input: { end: "fail" }, Prefer: "wait" });
const started = await call("started", "create_predictions", { version, input: { sleep: 600 } });
await callWhile("running", ["starting"], started);
await call("cancel", "cancel_predictions", { prediction_id: started.id });
await callWhile("canceled", ["starting", "processing"], started);
await call("invoked", "invoke_api_endpoint", { endpoint_name: "get_predictions", args: { prediction_id: created.id } });
await call("predictions", "list_predictions");
await call("models", "list_models");
await call("search", "search_models", { body: "words" });
await call("model", "get_models", text);
await call("versions", "list_models_versions", text);
await call("version", "get_models_versions", { ...text, version_id: quoted });
await call("readme", "get_models_readme", file);
await call("examples", "list_models_examples", file);
await call("file", "get_files", { file_id: upload.id });
await call("files", "list_files");
await call("download", "download_files", download);
await call("ofTheFile", "create_predictions", { version, input: { file: upload.urls.get }, Prefer: "wait" });
await call("delete", "delete_files", { file_id: upload.id });
await call("deleted", "get_files", { file_id: upload.id });
await call("collections", "list_collections");
await call("deployments", "list_deployments");
await call("trainings", "list_trainings");
await call("hardware", "list_hardware");
await call("account", "get_account");
await call("secret", "get_default_webhooks_secret");
await call("wrongInput", "create_predictions", { version, input: { sleep: "long" } });
await call("unknownModel", "get_models", { ...text, ...other("model_name") });
await call("unknownPrediction", "get_predictions", other("prediction_id"));
await call("unknownCollection", "get_collections", other("collection_slug"));
await call("unknownDeployment", "get_deployments", { deployment_owner: "test", deployment_name: "unknown" });
await call("unknownTraining", "get_trainings", other("training_id"));
await call("unknownFile", "get_files", other("file_id"));

const { tools } = await client.listTools();
await client.close();
rmSync(directory, { recursive: true });
process.stdout.write(JSON.stringify({ tools: tools.map(({ name }) => name), calls }));
