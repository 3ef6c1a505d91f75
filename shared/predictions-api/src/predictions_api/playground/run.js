// The stage: the prediction that is shown, as it waits, runs and ends.

import {api} from "./api.js";
import {downloadLink, fpsOf} from "./clip.js";
import {element, write} from "./dom.js";
import {follow} from "./events.js";
import {factsOf} from "./facts.js";
import {typeOf} from "./files.js";
import {Logs} from "./logs.js";
import {placeInQueue, progressOf} from "./progress.js";
import {hasEnded, outputsOf, state} from "./state.js";

const WELCOME = "This is an example. Change the inputs, or press Run.";
const NOTHING = "There is no output.";
const REMOVED = "The inputs and the clip were removed some time after the end. Download clips that you want to keep, or start the server with a longer --keep.";

export class Stage {
  #screen = element("div", {class: "screen"});
  #bar = element("progress", {"aria-label": "Progress", max: 1});
  #status = element("strong", {role: "status"});
  #detail = element("span", {class: "detail"});
  #actions = element("div", {class: "actions"});
  #stages = element("span", {});
  #strip = element("span", {class: "strip"});
  #logs = new Logs();
  #facts = element("div", {class: "place-of-facts"});
  #shown = ""; // what is on the screen

  /** `actions`: label -> function of the prediction. */
  constructor(parent, actions) {
    this.actions = actions;
    parent.append(
      this.#screen,
      this.#bar,
      element("div", {class: "line"}, element("p", {class: "status"}, this.#status, " ", this.#detail), this.#actions),
      element("div", {class: "line stages"}, this.#stages, this.#strip),
      this.#logs.element,
      this.#facts,
    );
    state.addEventListener("selected", () => {
      follow(state.selected);
      this.#show(state.selected);
    });
    state.addEventListener("prediction", ({detail}) => detail.id === state.selected?.id && this.#show(detail));
  }

  #show(prediction) {
    const isOver = !prediction || hasEnded(prediction);
    const {bar, stages} = progressOf(prediction?.logs ?? "");
    const [status, detail] = prediction ? describe(prediction) : [state.model?.default_example ? WELCOME : "Press Run.", ""];
    write(this.#status, status);
    write(this.#detail, detail);
    this.#bar.classList.toggle("idle", isOver);
    if (bar || isOver) this.#bar.value = isOver ? 0 : bar.done / bar.total;
    else this.#bar.removeAttribute("value");
    const measured = Object.entries(prediction?.metrics?.seconds ?? {}), order = stages.map(([name]) => name);
    measured.sort(([one], [other]) => order.indexOf(one) - order.indexOf(other)); // as in the log
    write(this.#stages, (measured.length ? measured : stages).map(([name, time]) => `${name} ${Number(time).toFixed(1)} s`).join(" · "));
    this.#showOutputs(prediction ?? state.model?.default_example ?? {}, bar);
    this.#showActions(prediction);
    this.#logs.element.hidden = !prediction;
    this.#logs.show(prediction?.logs);
  }

  /** Show the newest output, or else how far it is, or what went wrong. */
  #showOutputs(prediction, bar) {
    const outputs = outputsOf(prediction);
    const isEmpty = prediction.status && hasEnded(prediction) && !outputs.length;
    const note = prediction.error ?? (prediction.data_removed ? REMOVED : isEmpty ? NOTHING : null);
    this.#screen.dataset.progress = outputs.length || note || !bar ? "" : `${bar.done} / ${bar.total}`;
    const shown = [prediction.id, note, ...outputs].join();
    this.#showFacts(prediction);
    if (shown === this.#shown) return;
    this.#shown = shown;
    const buttons = outputs.map((_, index) => element("button", {
      type: "button", "aria-label": `Output ${index + 1} of ${outputs.length}`, onclick: () => pick(index),
    }, String(index + 1)));
    const pick = picked => {
      for (const [index, button] of buttons.entries()) button.setAttribute("aria-pressed", index === picked);
      this.#screen.replaceChildren(...outputs.slice(picked, picked + 1).map(output => draw(output, prediction)));
    };
    this.#strip.replaceChildren(...(outputs.length > (note ? 0 : 1) ? buttons : []));
    if (note) this.#screen.replaceChildren(element("p", {class: "note", tabindex: 0}, note));
    else pick(outputs.length - 1);
    this.#strip.scrollLeft = this.#strip.scrollWidth;
  }

  /** Show what is known at the end of a prediction. */
  #showFacts(prediction) {
    for (const player of this.#screen.querySelectorAll("clip-player")) player.fps = fpsOf(prediction);
    const id = prediction.metrics ? prediction.id : "";
    if (id === this.#facts.dataset.id) return;
    this.#facts.dataset.id = id;
    this.#facts.replaceChildren(...(id ? [factsOf(prediction)] : []));
  }

  #showActions(prediction) {
    const labels = labelsFor(prediction);
    if (labels.join() === this.#actions.dataset.labels) return; // a button that has the focus stays
    this.#actions.dataset.labels = labels.join();
    this.#actions.replaceChildren(...labels.map(label =>
      element("button", {type: "button", onclick: () => this.actions[label](state.selected)}, label)));
  }
}

/** Return what can be done with a prediction. */
function labelsFor(prediction) {
  if (!prediction || prediction.data_removed) return [];
  if (!hasEnded(prediction)) return ["Cancel"];
  return Number.isInteger(prediction.metrics?.seed) ? ["Use these inputs", "Next seed"] : ["Use these inputs"];
}

/** Return an element that shows an output: a clip, a picture, or a text. */
export function draw(output, prediction) {
  const src = output.startsWith("data:") ? output : api.own(output);
  if (!src) return element("pre", {tabindex: 0}, output);
  if (/\.(txt|json)$/.test(src)) return downloadLink(src, "Download the file");
  const player = element("clip-player", {src, type: typeOf(output)});
  player.fps = fpsOf(prediction);
  return player;
}

/** Return what a prediction does in a few words, and what changes often. */
export function describe(prediction) {
  const {status, data_removed: isRemoved, metrics, logs = ""} = prediction;
  if (isRemoved) return ["Removed.", ""];
  const {bar, wait} = progressOf(logs);
  if (status === "starting" && !bar) { // the events of the log arrive before the status, which is asked for
    if (wait === "model") return ["The model is starting.", ""];
    if (wait === "worker") return ["Waiting for a worker.", ""];
    const place = placeInQueue(prediction, [...state.predictions.values()]);
    return ["Queued.", place ? `${place} before it` : "It is next."];
  }
  if (!hasEnded(prediction)) {
    if (!bar) return ["Running.", ""];
    const left = bar.left.includes("?") ? "" : `, ${bar.left} left`;
    return [`Running: ${bar.name || "steps"}.`, `${bar.done} of ${bar.total}${left}`];
  }
  if (status === "failed") return ["Failed.", ""];
  if (status !== "succeeded") return ["Canceled.", ""];
  const seed = metrics?.seed === undefined ? "" : `, seed ${metrics.seed}`;
  return ["Done.", `${Number(metrics?.predict_time ?? 0).toFixed(1)} s${seed}`];
}
