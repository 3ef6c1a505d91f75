// Two to four predictions next to each other: their clips played in step, and the inputs that differ.

import {api} from "./api.js";
import {fpsOf, openClip} from "./clip.js";
import {Clock} from "./clock.js";
import {Controls} from "./controls.js";
import {element, isStill} from "./dom.js";
import {typeOf} from "./files.js";
import {notice} from "./notice.js";
import {inputsOf} from "./schema.js";
import {modelOf, outputsOf, state} from "./state.js";

const MAX = 4;
const chosen = new Set(); // of ids of predictions

/** A button that compares the chosen predictions. */
export const compareButton = element("button", {type: "button", class: "primary", id: "compare", hidden: true, onclick: () => compare([...chosen].map(id => state.predictions.get(id)))});

/** Return a checkbox that chooses a prediction. */
export function compareBox(id) {
  const box = element("input", {type: "checkbox", onchange: () => {
    if (!box.checked) chosen.delete(id);
    else if (chosen.size < MAX) chosen.add(id);
    else box.checked = false;
    notice(box.checked || chosen.size < MAX ? null : {title: `At most ${MAX} clips are compared`});
    compareButton.hidden = chosen.size < 2;
    compareButton.textContent = `Compare ${chosen.size}`;
  }});
  return element("label", {class: "choose"}, box, "Compare");
}

/** Show predictions in a dialog. */
export async function compare(predictions) {
  const views = predictions.map(() => element("div", {class: "view"}));
  const columns = element("div", {class: "columns"}, ...views.map((view, index) =>
    element("figure", {}, view, element("figcaption", {}, `${index + 1}: ${predictions[index].model}`))));
  const close = element("button", {type: "button", onclick: () => dialog.close()}, "Close");
  const head = element("div", {class: "line"}, element("h2", {id: "compare-title"}, "Comparison"), close);
  const dialog = element("dialog", {class: "compare", "aria-labelledby": "compare-title"}, head, columns, tableOf(predictions));
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
  const clips = await Promise.all(predictions.map(open));
  for (const [index, clip] of clips.entries()) views[index].append(clip.element);
  const moving = clips.filter(({media}) => media?.duration > 0);
  if (!moving.length || !dialog.open) return;
  const clock = clockOf(moving);
  columns.after(new Controls(clock, Math.max(...moving.map(({fps}) => fps))).element);
  dialog.addEventListener("close", () => clock.pause());
  if (!isStill()) clock.play();
}

/** Return what `openClip` returns for the last output of a prediction, which may be removed by now. */
async function open(prediction) {
  const output = outputsOf(prediction).at(-1);
  if (!output) return {element: element("p", {class: "note"}, "The clip was removed."), media: null};
  return openClip(api.own(output), typeOf(output), fpsOf(prediction) ?? 25);
}

/** Return a clock that all clips follow. A clip that is shorter waits at its last frame. */
function clockOf(clips) {
  const clock = new Clock(Math.max(...clips.map(({media}) => media.duration)), time => {
    for (const {media, fps} of clips) {
      const target = Math.min(time, media.duration - 0.5 / fps);
      const plays = media instanceof HTMLMediaElement && !clock.paused && target === time;
      if (media instanceof HTMLMediaElement) media.playbackRate = clock.playbackRate;
      if (plays && media.paused) media.play().catch(() => {});
      if (!plays && !media.paused) media.pause();
      if (Math.abs(media.currentTime - target) > (plays ? 0.5 / fps : 0)) media.currentTime = target;
    }
  });
  return clock;
}

/** Return a table of the inputs, in which those that differ are marked. */
function tableOf(predictions) {
  const all = predictions.map(allInputs);
  const names = [...new Set(all.flatMap(Object.keys))];
  const rows = names.map(name => {
    const texts = all.map(inputs => String(inputs[name] ?? "–")), differs = new Set(texts).size > 1;
    return element("tr", {}, element("th", {scope: "row"}, name), ...texts.map(text => element("td", {}, differs ? element("mark", {}, text) : text)));
  });
  const numbers = predictions.map((_, index) => element("th", {scope: "col"}, String(index + 1)));
  return element("table", {}, element("tr", {}, element("td"), ...numbers), ...rows);
}

/** Return the inputs of a prediction in the order of the form, with the defaults and the seed that was used. */
function allInputs(prediction) {
  const {input, metrics} = prediction;
  const defaults = Object.fromEntries(inputsOf(modelOf(prediction)).map(([name, schema]) => [name, schema.default]));
  return {...defaults, ...input, ...(metrics?.seed === undefined ? {} : {seed: metrics.seed})};
}
