// The kinds of fields. Each has `element` for the page, `control` for the focus, `read()` and `write(value)`.
// A value that is not understood is sent as it is: the server says what is wrong with it, in its own words.

import {element} from "./dom.js";
import {fileField} from "./files.js";

export function makeField(name, schema, id) {
  if (schema.enum) return choice(schema, id);
  if (schema.type === "boolean") return toggle(id);
  if (schema.format === "uri") return fileField(id);
  if (schema.type === "array") return list(id);
  if (name === "seed") return seed(id);
  if (schema.type === "integer" || schema.type === "number") return number(schema, id);
  return text(id);
}

function choice(schema, id) {
  const options = schema.enum.map(value => element("option", {}, String(value)));
  const select = element("select", {id}, ...options);
  return {
    element: select,
    control: select,
    read: () => schema.enum[select.selectedIndex],
    write: (value = schema.enum[0]) => (select.selectedIndex = schema.enum.indexOf(value)),
  };
}

function toggle(id) {
  const control = element("input", {id, type: "checkbox", role: "switch"});
  return {element: control, control, read: () => control.checked, write: value => (control.checked = value === true)};
}

function text(id) {
  const control = element("textarea", {id, rows: 1});
  return {element: control, control, read: () => control.value, write: value => (control.value = value ?? "")};
}

function list(id) {
  const control = element("textarea", {id, rows: 2, placeholder: "one per line"});
  return {
    element: control,
    control,
    read: () => (control.value === "" ? "" : control.value.split("\n")),
    write: value => (control.value = (value ?? []).join("\n")),
  };
}

const numberIn = control => {
  const written = control.value.trim();
  return written === "" || Number.isNaN(Number(written)) ? written : Number(written);
};

function number(schema, id) {
  const whole = schema.type === "integer";
  const control = element("input", {id, inputmode: whole ? "numeric" : "decimal", autocomplete: "off"});
  const field = {element: control, control, read: () => numberIn(control), write: value => (control.value = value ?? "")};
  if (schema.minimum === undefined || schema.maximum === undefined) return field;
  const {minimum: min, maximum: max} = schema;
  const slider = element("input", {type: "range", min, max, step: whole ? 1 : 0.1, "aria-labelledby": `${id}-label`});
  slider.oninput = () => (control.value = slider.value);
  control.oninput = () => (slider.value = control.value);
  field.element = element("div", {class: "slider"}, slider, control);
  field.write = value => {
    control.value = value ?? "";
    slider.value = value ?? min;
  };
  return field;
}

function seed(id) {
  const control = element("input", {id, inputmode: "numeric", autocomplete: "off", placeholder: "random"});
  const set = value => {
    control.value = value;
    control.dispatchEvent(new Event("input", {bubbles: true}));
  };
  const roll = () => set(crypto.getRandomValues(new Uint32Array(1))[0] >>> 1);
  const die = element("button", {type: "button", title: "A new random seed", "aria-label": "New seed", onclick: roll}, "⚄");
  const same = element("button", {type: "button", title: "The seed of the clip that is shown", onclick: () => {
    if (field.latest() !== undefined) set(field.latest());
  }}, "Same again");
  const field = {
    element: element("div", {class: "seed"}, control, die, same),
    control,
    latest: () => undefined, // the form sets it
    read: () => numberIn(control),
    write: value => (control.value = value ?? ""),
  };
  return field;
}
