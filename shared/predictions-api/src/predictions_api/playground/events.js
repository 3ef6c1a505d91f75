// Follows the prediction on the stage by server-sent events: its logs and outputs as they come.
// The browser connects again after a lost connection, and names the last event that it has received.

import {api} from "./api.js";
import {notice} from "./notice.js";
import {hasEnded, state} from "./state.js";

let source = null;

/** Receive the events of a prediction, and of no other one. If it has ended, read its logs, and whether it is still there. */
export function follow(prediction) {
  source?.close();
  source = null;
  if (!state.predictions.has(prediction?.id)) return; // an example
  const {id} = prediction;
  const read = () => api.get(`predictions/${id}`).then(whole => state.put(whole)).catch(notice);
  if (hasEnded(prediction)) {
    read();
    return;
  }
  const stream = new EventSource(api.own(prediction.urls.stream));
  const change = changes => state.put({...state.predictions.get(id), ...changes});
  source = stream;
  let logs = "", outputs = [];
  stream.addEventListener("logs", ({data}) => change({logs: (logs += data)}));
  stream.addEventListener("output", ({data}) => change({output: (outputs = [...outputs, data])}));
  stream.addEventListener("done", () => {
    stream.close();
    read();
  });
}

// Browsers open six connections to a server, so a tab that nobody sees holds none.
document.addEventListener("visibilitychange", () => follow(document.hidden ? null : state.selected));

/** Return whether the stream of a prediction that still runs has ended, as its server answered with an error. */
export const isLost = prediction => !hasEnded(prediction) && (!source || source.readyState === EventSource.CLOSED);
