// Uses the official JavaScript client as its documentation does.
// Writes JSON to stdout: the result of each use and every answer of the server. test_javascript_client.py checks both.

import http from "node:http";
import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import Replicate, { parseProgressFromLogs, validateWebhook } from "replicate";

const { BASE_URL, TOKEN, VERSIONS } = process.env;
const versions = JSON.parse(VERSIONS);
const reference = (name) => `test/${name}:${versions[name]}`;

const answers = [];
const recordingFetch = async (url, init = {}) => {
  const response = await fetch(url, init);
  const type = response.headers.get("content-type") ?? "";
  const isStream = type.startsWith("text/event-stream");
  const body = isStream ? "" : await response.clone().text();
  const authorized = "Authorization" in (init.headers ?? {});
  answers.push({ method: init.method ?? "GET", url: String(url), status: response.status, type, body, authorized });
  return response;
};
const replicate = new Replicate({ auth: TOKEN, baseUrl: `${BASE_URL}/v1`, fetch: recordingFetch });
const errorMessage = (promise) => promise.then(() => "nothing was thrown", (error) => error.message);
const texts = (outputs) => Promise.all(outputs.map(async (output) => (await output.blob()).text()));

async function webhook() {
  const calls = [];
  const receiver = http.createServer(async (request, response) => {
    const parts = [];
    for await (const part of request) parts.push(part);
    response.writeHead(204).end();
    calls.push({ headers: request.headers, body: Buffer.concat(parts).toString() });
    receiver.emit("call");
  });
  receiver.listen(0, "127.0.0.1");
  await once(receiver, "listening");
  const called = once(receiver, "call");
  const hook = `http://127.0.0.1:${receiver.address().port}/hook`;
  await replicate.run(reference("text"), { input: {}, webhook: hook, webhook_events_filter: ["completed"] });
  await called;
  receiver.close();
  receiver.closeAllConnections();
  const { key } = await replicate.webhooks.default.secret.get();
  const [call] = calls;
  return {
    status: JSON.parse(call.body).status,
    valid: await validateWebhook(call, key),
    changed: await validateWebhook({ ...call, body: `${call.body} ` }, key),
  };
}

async function upload() {
  const content = new File(["some bytes"], "notes.txt", { type: "text/plain" });
  const file = await replicate.files.create(content, { customer: 123 });
  const { results } = await replicate.files.list();
  return {
    file,
    got: await replicate.files.get(file.id),
    first: results[0].id,
    asInput: await replicate.run(reference("text"), { input: { file: file.urls.get } }),
    deleted: await replicate.files.delete(file.id),
    after: await errorMessage(replicate.files.get(file.id)),
  };
}

async function cancel() {
  const prediction = await replicate.predictions.create({ version: versions.text, input: { sleep: 60 } });
  const canceled = await replicate.predictions.cancel(prediction.id);
  const again = await replicate.predictions.cancel(prediction.id);
  return { before: prediction.status, after: canceled.status, same: JSON.stringify(canceled) === JSON.stringify(again) };
}

async function abort() {
  const controller = new AbortController();
  let last;
  const options = { input: { sleep: 60 }, wait: { mode: "poll", interval: 20 }, signal: controller.signal };
  await errorMessage(
    replicate.run(reference("text"), options, (prediction) => {
      last = prediction;
      setTimeout(() => controller.abort(), 50);
    }),
  );
  return (await replicate.predictions.get(last.id)).status;
}

async function progress() {
  const seen = [];
  const directory = mkdtempSync(join(tmpdir(), "replicate-"));
  const hold = join(directory, "hold"); // the model waits for it before its last step
  const options = { input: { steps: 8, hold }, wait: { mode: "poll", interval: 20 } };
  await replicate.run(reference("text"), options, ({ status, logs }) => {
    const current = parseProgressFromLogs(logs ?? "");
    if (current) seen.push({ status, ...current });
    if (current?.current === 7) writeFileSync(hold, "");
  });
  rmSync(directory, { recursive: true });
  return { between: seen.find(({ status }) => status === "processing"), last: seen.at(-1) };
}

async function stream(name, input) {
  const events = [];
  for await (const { event, data } of replicate.stream(reference(name), { input })) {
    if (event !== "logs") events.push([event, typeof data === "string" ? data : await (await data.blob()).text()]);
  }
  return events;
}

const uses = {
  run: () => replicate.run(reference("text"), { input: { text: "out" } }),
  runByPolling: () => replicate.run(reference("text"), { input: { text: "out" }, wait: { mode: "poll", interval: 20 } }),
  runLongerThanTheWait: () =>
    replicate.run(reference("text"), { input: { text: "late", sleep: 1.2 }, wait: { mode: "block", timeout: 1 } }),
  runWithoutVersion: () => replicate.run("test/text", { input: { text: "newest" } }),
  runThatFails: () => errorMessage(replicate.run(reference("text"), { input: { end: "fail" } })),
  runOfParts: () => replicate.run(reference("words"), { input: { text: "one two" } }),
  runOfAFile: async () => {
    const output = await replicate.run(reference("file"), { input: { content: "abc" } });
    const blob = await output.blob();
    return { start: output.url().href.slice(0, 23), type: blob.type, text: await blob.text() };
  },
  runOfAFileByPolling: async () => {
    const options = { input: { content: "abc" }, wait: { mode: "poll", interval: 20 } };
    return (await (await replicate.run(reference("file"), options)).blob()).text();
  },
  runOfFiles: async () => texts(await replicate.run(reference("files"), { input: { count: 2 } })),
  fileInput: () => replicate.run(reference("text"), { input: { file: new Blob(["from a blob"]) } }),
  upload,
  cancel,
  abort,
  progress,
  webhook,
  streamOfWords: () => stream("words", { text: "one two" }),
  streamOfFiles: () => stream("files", { count: 2 }),
  streamOfAText: () => stream("text", { text: "abc" }),
  streamOfAFile: () => stream("file", { content: "abc" }),
  list: async () => {
    const prediction = await replicate.predictions.create({ version: versions.text, input: { text: "listed" } });
    await replicate.wait(prediction, { interval: 20 });
    const { results } = await replicate.predictions.list();
    return { newest: results[0].id === prediction.id, output: results[0].output };
  },
  models: async () => ({
    listed: (await replicate.models.list()).results.map(({ name }) => name).sort(),
    matching: (await replicate.models.search("words")).results.map(({ name }) => name),
    latest: (await replicate.models.get("test", "text")).latest_version.id,
    versions: (await replicate.models.versions.list("test", "text")).results.map(({ id }) => id),
    version: (await replicate.models.versions.get("test", "text", versions.text)).id,
  }),
  account: async () => Object.keys(await replicate.accounts.current()),
  hardware: async () => (await replicate.hardware.list()).length,
  unknownVersion: () => errorMessage(replicate.predictions.create({ version: "0".repeat(64), input: {} })),
  wrongToken: () =>
    errorMessage(new Replicate({ auth: "wrong", baseUrl: `${BASE_URL}/v1`, fetch: recordingFetch }).predictions.list()),
};

const results = {};
for (const [name, use] of Object.entries(uses)) {
  results[name] = await use().catch((error) => ({ thrown: String(error) }));
}
process.stdout.write(JSON.stringify({ results, answers }));
