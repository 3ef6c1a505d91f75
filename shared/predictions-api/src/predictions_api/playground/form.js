// The form of a model, made from its schema. It names what differs from the defaults, and shows faults at their fields.

import {element, write} from "./dom.js";
import {makeField} from "./fields.js";
import {inputsOf, schemasOf} from "./schema.js";
import {nameOf} from "./state.js";

export class Form {
  model = null;
  #element;
  #fields = new Map(); // name -> {schema, field, fault}
  #inputs = new Map(); // owner/name -> what was in the form of another model

  constructor(form) {
    this.#element = form;
    form.addEventListener("input", ({target}) => {
      this.#fault(target.closest("[data-name]")?.dataset.name, "");
      this.#changed();
    });
    form.addEventListener("reset", event => {
      event.preventDefault();
      this.fill({});
    });
  }

  /** Show a model's fields as they were left, or with the inputs of its first example: one press makes a clip. */
  show(model) {
    if (this.model) this.#inputs.set(nameOf(this.model), this.read());
    const schemas = schemasOf(model);
    this.model = {owner: model.owner, name: model.name, version: model.latest_version?.id, schema: schemas?.Input, output: schemas?.Output};
    this.#fields.clear();
    const rows = inputsOf(model).map(([name, schema]) => this.#row(name, schema));
    if (schemas && !rows.length) rows.push(element("p", {class: "help"}, "This model has no inputs."));
    if (!schemas) rows.push(element("p", {class: "help"}, "The inputs of this model are not known now. Start its server, and load this page again."));
    this.#element.querySelector("#fields").replaceChildren(...rows);
    this.fill(this.#inputs.get(nameOf(model)) ?? model.default_example?.input ?? {});
    this.#element.querySelector("fieldset").disabled = false;
  }

  read() {
    const inputs = {};
    for (const [name, {schema, field}] of this.#fields) {
      const value = field.read();
      const isDefault = JSON.stringify(value) === JSON.stringify(schema.default);
      const isEmpty = value === "" && (schema.default === undefined || schema.type !== "string" || schema.enum);
      const isOff = value === false && schema.default === undefined && !field.control.required;
      if (!isDefault && !isEmpty && !isOff) inputs[name] = value;
    }
    return inputs;
  }

  /** Write inputs to their fields. All other fields get their defaults. Return the names of inputs that no field holds. */
  fill(inputs) {
    for (const [name, {schema, field}] of this.#fields) {
      field.write(inputs[name] ?? schema.default);
      this.#fault(name, "");
    }
    this.#changed();
    const isHeld = name => JSON.stringify(this.#fields.get(name)?.field.read()) === JSON.stringify(inputs[name]);
    return Object.keys(inputs).filter(name => inputs[name] !== null && !isHeld(name));
  }

  /** Return when all files are uploaded. */
  async ready() {
    for (const {field} of this.#fields.values()) await field.ready?.();
  }

  /** Show what is wrong with fields. Return the control of the first of them. */
  showFaults(faults) {
    const names = [...this.#fields.keys()].filter(name => Object.hasOwn(faults, name));
    for (const name of names) this.#fault(name, faults[name]);
    return this.#fields.get(names[0])?.field.control;
  }

  /** Set where "same again" finds the seed of the clip that is shown. */
  set latestSeed(latest) {
    const seed = this.#fields.get("seed");
    if (seed) seed.field.latest = latest;
  }

  #row(name, schema) {
    const id = `input-${name}`;
    const field = makeField(name, schema, id);
    const help = element("p", {class: "help", id: `${id}-help`}, schema.description ?? "");
    const fault = element("p", {class: "fault", id: `${id}-fault`});
    field.control.setAttribute("aria-describedby", `${id}-help ${id}-fault`);
    field.control.name = name;
    this.#fields.set(name, {schema, field, fault});
    const isRequired = this.model.schema.required?.includes(name);
    field.control.required = Boolean(isRequired);
    const label = element("label", {for: id, id: `${id}-label`}, titleOf(name), isRequired && " *");
    return element("div", {class: `field ${layoutOf(name, schema)}`, "data-name": name}, label, field.element, help, fault);
  }

  #fault(name, text) {
    const entry = this.#fields.get(name);
    if (!entry) return;
    write(entry.fault, text);
    entry.field.control.setAttribute("aria-invalid", text !== "");
  }

  #changed() {
    this.#element.dispatchEvent(new Event("change", {bubbles: true}));
  }
}

const titleOf = name => name[0].toUpperCase() + name.slice(1).replaceAll("_", " ");

/** Return how a field is laid out: numbers without a slider share a line, as short choices do, if their help is short. */
function layoutOf(name, {type, enum: choices, minimum, maximum, description = ""}) {
  if (type === "boolean") return "switch";
  if (description.length > 40) return "wide";
  if (choices) return choices.every(choice => String(choice).length <= 10) ? "half" : "wide";
  const isNumber = (type === "integer" || type === "number") && name !== "seed";
  return isNumber && (minimum === undefined || maximum === undefined) ? "half" : "wide";
}
