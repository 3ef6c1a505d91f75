// The kinds of fields. Each has `element` for the page, `control` for the focus, `read()` and `write(value)`.
// A value that is not understood is sent as it is: the server says what is wrong with it, in its own words.

import {element} from "./dom.js";
import {fileField} from "./files.js";

export function makeField(name, schema, id) {
  if (schema.enum) return choice(schema, id);
  if (schema.type === "boolean") return toggle(id);
  if (schema.format === "uri") return fileField(id);
  if (schema.type === "array") return list(schema, id);
  if (name === "seed") return seed(id);
  if (schema.type === "integer" || schema.type === "number") return number(schema, id);
  if (schema.format === "password") return secret(id);
  return schema.type === "string" ? text(id) : json(id);
}

/** A choice without a default is not made until somebody makes it. */
function choice(schema, id) {
  const values = schema.default === undefined ? [undefined, ...schema.enum] : schema.enum;
  const select = element("select", {id}, ...values.map(value => element("option", {}, String(value ?? "–"))));
  return {
    element: select,
    control: select,
    read: () => values[select.selectedIndex],
    write: value => (select.selectedIndex = values.indexOf(value)),
  };
}

function toggle(id) {
  const control = element("input", {id, type: "checkbox", role: "switch"});
  return {element: control, control, read: () => control.checked, write: value => (control.checked = value === true)};
}

function text(id) {
  const control = element("textarea", {id, rows: 1, dir: "auto"});
  return {element: control, control, read: () => control.value, write: value => (control.value = value ?? "")};
}

function secret(id) {
  const control = element("input", {id, type: "password", autocomplete: "off"});
  return {element: control, control, read: () => control.value, write: value => (control.value = value ?? "")};
}

/** An object, or anything else that JSON can write. */
function json(id) {
  const control = element("textarea", {id, rows: 2, placeholder: "JSON"});
  const read = () => {
    try {
      return JSON.parse(control.value);
    } catch {
      return control.value;
    }
  };
  return {element: control, control, read, write: value => (control.value = value === undefined ? "" : JSON.stringify(value))};
}

function list({items}, id) {
  const control = element("textarea", {id, rows: 2, placeholder: "one per line"});
  const itemIn = ["integer", "number"].includes(items?.type) ? numberIn : line => line;
  return {
    element: control,
    control,
    read: () => (control.value === "" ? "" : control.value.split("\n").map(itemIn)),
    write: value => (control.value = [value ?? []].flat().join("\n")),
  };
}

/** Return the number that a text states, or the text. */
function numberIn(text) {
  const written = text.trim();
  return written !== "" && Number.isFinite(Number(written)) ? Number(written) : written;
}

function number(schema, id) {
  const whole = schema.type === "integer";
  const control = element("input", {id, inputmode: whole ? "numeric" : "decimal", autocomplete: "off"});
  const field = {element: control, control, read: () => numberIn(control.value), write: value => (control.value = value ?? "")};
  if (schema.minimum === undefined || schema.maximum === undefined) return field;
  const {minimum: min, maximum: max} = schema;
  const slider = element("input", {type: "range", min, max, step: whole ? 1 : max - min > 1 ? 0.1 : (max - min) / 100, "aria-labelledby": `${id}-label`});
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
    const latest = field.latest();
    if (latest !== undefined) set(latest);
  }}, "Same again");
  const field = {
    element: element("div", {class: "seed"}, control, die, same),
    control,
    latest: () => undefined, // the form sets it
    read: () => numberIn(control.value),
    write: value => (control.value = value ?? ""),
  };
  return field;
}
