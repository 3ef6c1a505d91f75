// The stage: the prediction that is shown, as it waits, runs and ends.

import {api} from "./api.js";
import {element} from "./dom.js";
import {follow} from "./events.js";
import {typeOf} from "./files.js";
import {Logs} from "./logs.js";
import {placeInQueue, progressOf} from "./progress.js";
import {hasEnded, outputsOf, state} from "./state.js";

const WELCOME = "Change the inputs or leave them as they are, and press Run.";

export class Stage {
  #screen = element("div", {class: "screen"});
  #strip = element("div", {class: "strip"});
  #status = element("p", {class: "status", role: "status"});
  #bar = element("progress", {"aria-label": "Progress", max: 1, hidden: true});
  #stages = element("p", {class: "stages"});
  #actions = element("div", {class: "actions"});
  #logs = new Logs();
  #shown = ""; // the URLs on the screen

  constructor(parent, actions) {
    this.actions = actions; // name -> function of the prediction
    const line = element("div", {class: "line"}, this.#status, this.#actions);
    parent.append(this.#screen, this.#strip, this.#bar, line, this.#stages, this.#logs.element);
    state.addEventListener("selected", () => {
      follow(state.selected);
      this.show(state.selected);
    });
    state.addEventListener("prediction", ({detail}) => {
      if (detail.id === state.selected?.id || placeInQueue(state.selected ?? {}, [detail])) this.show(state.selected);
    });
  }

  show(prediction) {
    if (!prediction) return this.#showExample();
    const outputs = outputsOf(prediction);
    const progress = progressOf(prediction.logs ?? "");
    this.#showOutputs(outputs);
    this.#write(this.#status, describe(prediction, progress));
    this.#status.classList.toggle("bad", prediction.status === "failed");
    this.#bar.hidden = hasEnded(prediction);
    if (progress.bar) this.#bar.value = progress.bar.done / progress.bar.total;
    else this.#bar.removeAttribute("value");
    const seconds = prediction.metrics?.seconds;
    const stages = seconds ? Object.entries(seconds) : progress.stages.map(({name, seconds}) => [name, seconds]);
    this.#write(this.#stages, stages.map(([name, time]) => `${name} ${time.toFixed(1)} s`).join(" · "));
    this.#logs.element.hidden = false;
    this.#logs.show(prediction.logs);
    this.#showActions(prediction);
  }

  #showExample() {
    const example = state.model?.default_example;
    this.#showOutputs(example ? outputsOf(example) : []);
    this.#write(this.#status, WELCOME);
    this.#status.classList.remove("bad");
    this.#bar.hidden = true;
    this.#write(this.#stages, "");
    this.#actions.replaceChildren();
    this.#logs.element.hidden = true;
  }

  #showOutputs(outputs) {
    if (outputs.join() === this.#shown) return;
    this.#shown = outputs.join();
    this.#screen.replaceChildren(...outputs.slice(-1).map(draw));
    const pick = output => this.#screen.replaceChildren(draw(output));
    const label = index => `Output ${index + 1} of ${outputs.length}`;
    this.#strip.replaceChildren(...(outputs.length > 1 ? outputs : []).map((output, index) =>
      element("button", {type: "button", "aria-label": label(index), onclick: () => pick(output)}, String(index + 1))));
  }

  #showActions(prediction) {
    const names = hasEnded(prediction) ? ["Use these inputs", "Next seed"] : ["Cancel"];
    if (names.join() === this.#actions.dataset.names && this.#actions.dataset.id === prediction.id) return;
    Object.assign(this.#actions.dataset, {names: names.join(), id: prediction.id});
    this.#actions.replaceChildren(...names.map(name =>
      element("button", {type: "button", onclick: () => this.actions[name](state.selected)}, name)));
  }

  #write(node, text) {
    if (node.textContent !== text) node.textContent = text;
  }
}

/** Return an element that shows an output: a clip, a picture, or a text. */
export function draw(output) {
  if (!/^https?:|^data:/.test(output)) return element("pre", {}, output);
  const src = output.startsWith("data:") ? output : api.own(output);
  if (/\.txt$/.test(output)) return element("a", {href: src, download: true}, "Download the text");
  if (typeOf(output).startsWith("image/")) return element("img", {src, alt: "The clip"});
  const video = element("video", {src, loop: true, autoplay: true, playsinline: true, controls: true, "aria-label": "The clip"});
  video.muted = true;
  return video;
}

/** Return what a prediction does, in a sentence. */
export function describe(prediction, {bar, isStarting} = progressOf("")) {
  const {status, error, data_removed: isRemoved, metrics} = prediction;
  if (isRemoved) return "The inputs and the clip were removed some time after the end. Download a clip to keep it, or start the server with a longer --keep.";
  if (status === "starting") {
    if (isStarting) return "The model is starting.";
    const place = placeInQueue(prediction, [...state.predictions.values()]);
    return place ? `Queued, ${place} before it.` : "Queued, next.";
  }
  if (status === "processing") {
    if (!bar) return "Running.";
    const left = bar.left.includes("?") ? "" : `, ${bar.left} left`;
    return `Running: ${bar.name || "step"} ${bar.done} of ${bar.total}${left}.`;
  }
  if (status === "failed") return error || "Failed.";
  if (status === "succeeded") return `Done in ${(metrics?.predict_time ?? 0).toFixed(1)} s${metrics?.seed === undefined ? "" : `, seed ${metrics.seed}`}.`;
  return "Canceled.";
}
