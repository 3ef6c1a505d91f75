// What the page knows: the models, the chosen one, and predictions. Modules listen to its events and change nothing else.

import {schemasOf} from "./schema.js";

class State extends EventTarget {
  models = [];
  model = null;
  predictions = new Map(); // id -> prediction
  selected = null; // the prediction on the stage

  choose(model) {
    this.model = model;
    this.#tell("model", model);
  }

  /** Add what is known about a prediction. Members that `news` lacks stay, as lists have no logs. */
  put(news) {
    const old = this.predictions.get(news.id);
    const prediction = {...old, ...news};
    if (old && !hasEnded(news)) { // `news` may be an older answer that arrived later
      if (hasEnded(old)) return old;
      if (itemsOf(old).length > itemsOf(news).length) prediction.output = old.output;
    }
    this.predictions.set(prediction.id, prediction);
    if (this.selected?.id === prediction.id) this.selected = prediction;
    this.#tell("prediction", prediction);
    return prediction;
  }

  select(prediction) {
    this.selected = prediction;
    this.#tell("selected", prediction);
  }

  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, {detail}));
  }
}

export const state = new State();
export const hasEnded = ({status}) => status !== "starting" && status !== "processing";
export const nameOf = model => `${model.owner}/${model.name}`;
export const modelOf = prediction => state.models.find(model => nameOf(model) === prediction.model);

const itemsOf = ({output}) => [output ?? []].flat();

/** Return the outputs of a prediction as strings. Texts that come one by one are one output. */
export function outputsOf(prediction) {
  const items = itemsOf(prediction).map(item => (typeof item === "string" ? item : JSON.stringify(item)));
  if (!items.length || items.some(item => /^(https?|data):/.test(item))) return items;
  const display = schemasOf(modelOf(prediction))?.Output?.["x-cog-array-display"];
  return [items.join(display === "concatenate" ? "" : "\n")];
}
