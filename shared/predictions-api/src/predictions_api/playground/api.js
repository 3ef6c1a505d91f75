// Requests to the API. No other module sends any.

import {askToken, token} from "./token.js";

const root = new URL("./", document.baseURI); // a proxy may serve the page below a path

/** An answer that is an error. `status` is 0 if there was none. `faults`: field -> what is wrong with it. */
export class ApiError extends Error {
  constructor(status, {title = `The server answered ${status}`, detail, invalid_fields: faults = []}) {
    super(detail ?? title);
    this.status = status;
    this.title = title;
    this.detail = detail ?? "";
    this.faults = {};
    for (const {type, field, description} of faults) {
      const name = type === "required" ? description.split(" ")[0] : field.split(".")[1];
      if (name) this.faults[name] = description;
    }
  }
}

async function request(method, path, {body, ...headers} = {}) {
  const sent = token();
  if (sent) headers.Authorization = `Bearer ${sent}`;
  let answer;
  try {
    answer = await fetch(new URL(path, root), {method, body, headers});
  } catch {
    throw new ApiError(0, {title: "The server does not answer", detail: "Is it running? This page continues when it is back."});
  }
  if (answer.status === 401) {
    await askToken(sent);
    return request(method, path, {body, ...headers});
  }
  if (!answer.ok) throw new ApiError(answer.status, await answer.json().catch(() => ({})));
  return answer;
}

async function json(...request_) {
  return (await request(...request_)).json();
}

export const api = {
  base: new URL("v1", root).href,
  get: path => json("GET", path),
  post: (path, body = {}) => json("POST", path, {body: JSON.stringify(body), "Content-Type": "application/json"}),
  text: async (path, accept) => (await request("GET", path, {Accept: accept})).text(),
  blob: async url => (await request("GET", api.own(url))).blob(),
  upload(file) {
    const body = new FormData();
    body.append("content", file);
    return json("POST", "files", {body});
  },

  /** Return a URL of the server as one that this page may read: the server may have another name for clients. */
  own(url) {
    const path = /^https?:\/\/[^/]+.*?\/v1\/(.+)$/.exec(url)?.[1];
    return path === undefined ? null : new URL(`v1/${path}`, root).href;
  },
};
