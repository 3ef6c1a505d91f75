// What is known about a clip: the metrics of its prediction, and what the file itself states.

import {api} from "./api.js";
import {element} from "./dom.js";
import {readProvenance} from "./provenance.js";
import {outputsOf} from "./state.js";

/** Return an element with the facts of a prediction that has ended. The file is read when the element is opened. */
export function factsOf(prediction) {
  const {seconds, ...metrics} = prediction.metrics;
  const stages = Object.entries(seconds ?? {}).map(([stage, value]) => [`seconds of ${stage}`, value]);
  const stated = element("div", {}, "Reading the file …");
  const details = element("details", {class: "facts"}, element("summary", {}, "Facts"),
    list({...metrics, ...Object.fromEntries(stages), model: prediction.model, version: prediction.version, id: prediction.id}), stated);
  details.addEventListener("toggle", async () => stated.replaceChildren(...(await statement(prediction))), {once: true});
  return details;
}

async function statement(prediction) {
  const file = outputsOf(prediction).at(-1);
  const stated = file && (await api.blob(file).then(readProvenance, () => null));
  if (!stated) return ["No file states how it was made."];
  const {inputs, ...rest} = stated;
  return ["The file states that a model made it:", list({...rest, ...inputs})];
}

function list(values) {
  return element("dl", {}, ...Object.entries(values).flatMap(([name, value]) =>
    [element("dt", {}, name), element("dd", {}, textOf(value))]));
}

function textOf(value) {
  if (typeof value === "number") return String(+value.toFixed(3));
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}
