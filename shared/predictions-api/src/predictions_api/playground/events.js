// Follows the prediction on the stage by server-sent events: its logs and outputs as they come.
// The browser connects again after a lost connection, and names the last event that it has received.

import {api} from "./api.js";
import {hasEnded, state} from "./state.js";

let source = null;

/** Receive the events of a prediction, and of no other one. */
export function follow(prediction) {
  source?.close();
  source = null;
  if (!prediction || hasEnded(prediction) || !prediction.urls.stream) return;
  const id = prediction.id, stream = new EventSource(api.own(prediction.urls.stream));
  const change = changes => state.put({...state.predictions.get(id), ...changes});
  source = stream;
  let logs = "", outputs = [];
  stream.addEventListener("logs", ({data}) => change({logs: (logs += data)}));
  stream.addEventListener("output", ({data}) => change({output: (outputs = [...outputs, data])}));
  stream.addEventListener("done", async () => {
    stream.close();
    state.put(await api.get(`predictions/${id}`));
  });
}

/** Return whether the stream of a prediction that still runs has ended, as its server answered with an error. */
export const isLost = prediction => !hasEnded(prediction) && (!source || source.readyState === EventSource.CLOSED);
