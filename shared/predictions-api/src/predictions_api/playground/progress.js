// Reads a prediction's progress out of its logs: tqdm's bars, and the lines of stages that have ended.

import {hasEnded} from "./state.js";

// 44%|########            | 11/25 denoise [00:02<00:02]
const BAR = /(\d+)%\|[^|\n]*\|\s*(\d+)\/(\d+)\s*([^[\n\r]*?)\s*(?:\[[\d:]+<([\d:?]+)[^\]\n]*\])?\s*$/;
// denoise: 25 steps, 50 UNet evaluations of 16 frames 8x8 in 5.1 s
const STAGE = /^(\w+): .* in ([\d.]+) s\b/;
// What the server writes while no model runs yet
const WAIT = /^(?:(waiting for a worker)|(starting \S+)) \.\.\.$/;

/** Return {stages: [[name, seconds]], bar: {name, done, total, left} or null, wait: "worker", "model" or null}. */
export function progressOf(logs) {
  const lines = logs.slice(-100_000).split(/[\r\n]+/).filter(Boolean);
  const stages = [];
  let bar = null;
  for (const line of lines) {
    const stage = STAGE.exec(line), found = BAR.exec(line);
    if (stage) {
      stages.push([stage[1], Number(stage[2])]);
      bar = null;
    } else if (found) {
      bar = {name: found[4], done: Number(found[2]), total: Number(found[3]), left: found[5] ?? "?"};
    }
  }
  const [, forWorker, forModel] = WAIT.exec(lines.at(-1) ?? "") ?? [];
  return {stages, bar, wait: forWorker ? "worker" : forModel ? "model" : null};
}

/** Return how many predictions of the same model come before a waiting one. */
export function placeInQueue(prediction, predictions) {
  const isBefore = other => other.created_at < prediction.created_at && !hasEnded(other);
  return predictions.filter(other => other.model === prediction.model && isBefore(other)).length;
}
