// A clip of a model that is dropped on the page, or picked, fills the form with the inputs that the file states.

import {element} from "./dom.js";
import {notice} from "./notice.js";
import {readProvenance} from "./provenance.js";
import {inputsOf} from "./schema.js";
import {nameOf, state} from "./state.js";

/** Accept clips on the whole page and by a button. `use` is called with {model, input} of a clip. */
export function acceptClips(buttons, use) {
  const onchange = () => {
    take(picker.files[0]);
    picker.value = ""; // the same file may be picked again
  };
  const picker = element("input", {type: "file", accept: "video/mp4,image/gif,image/png", hidden: true, onchange});
  buttons.append(picker, element("button", {type: "button", title: "Or drop an MP4, GIF or PNG of a model on the page", onclick: () => picker.click()}, "From a clip"));
  document.addEventListener("dragover", event => event.preventDefault());
  document.addEventListener("drop", event => {
    event.preventDefault(); // the browser would leave the page
    take(event.dataTransfer.files[0]);
  });

  async function take(file) {
    if (!file) return;
    const stated = await readProvenance(file);
    const model = stated && modelOf(stated);
    if (!model) return notice({title: `${file.name} has no inputs of one of these models`, detail: "Give an unchanged file of a model."});
    const input = {...stated.inputs, seed: stated.seed};
    const files = inputsOf(model).filter(([name, {format}]) => format === "uri" && input[name]).map(([name]) => name);
    for (const name of files) delete input[name]; // the clip has only its SHA-256
    notice(null);
    use({model: nameOf(model), input});
    if (files.length) notice({title: `Give the file for ${files.join(", ")} again`});
  }
}

/** Return the model that has all inputs of a clip, first the chosen one: a server may give a model any name. */
function modelOf({inputs}) {
  return [state.model, ...state.models].find(model => {
    const names = inputsOf(model).map(([name]) => name);
    return Object.keys(inputs).every(name => names.includes(name));
  });
}
