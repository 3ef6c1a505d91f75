// The history of the server, newest first: a card for each prediction, whose clip plays while the pointer is on it.

import {api} from "./api.js";
import {compareBox, compareButton} from "./compare.js";
import {element, isStill, write} from "./dom.js";
import {notice} from "./notice.js";
import {describe} from "./run.js";
import {still} from "./still.js";
import {nameOf, outputsOf, state} from "./state.js";

export class Gallery {
  #list = document.querySelector("#gallery");
  #filter = document.querySelector("#filter");
  #older = document.querySelector("#older");
  #cards = new Map(); // id -> Card
  #next = ""; // the query of the page that is loaded next

  constructor() {
    this.#list.before(compareButton);
    state.addEventListener("prediction", ({detail}) => this.#show(detail));
    state.addEventListener("selected", () => {
      for (const card of this.#cards.values()) card.mark(state.selected?.id);
    });
    this.#filter.onchange = () => {
      for (const card of this.#cards.values()) card.filter(this.#filter.value);
    };
    this.#older.onclick = () => this.load().catch(notice);
  }

  /** Load a page of predictions: first the newest, then the ones before. */
  async load() {
    const {results, next} = await api.get(`predictions${this.#next}`);
    for (const prediction of results) state.put(prediction);
    this.#next = next && new URL(next).search;
    this.#older.hidden = !next;
  }

  listModels() {
    this.#filter.append(...state.models.map(model => element("option", {value: nameOf(model)}, model.name)));
  }

  #show(prediction) {
    let card = this.#cards.get(prediction.id);
    if (!card) {
      card = new Card(prediction.id);
      card.element.dataset.created = prediction.created_at;
      this.#cards.set(prediction.id, card);
      const after = [...this.#list.children].find(other => other.dataset.created < prediction.created_at);
      this.#list.insertBefore(card.element, after ?? null);
    }
    card.show(prediction);
    card.filter(this.#filter.value);
  }
}

/** Return the prompts and other texts of a prediction, in the order of the form. */
function textsOf({model, input}) {
  const schema = state.models.find(known => nameOf(known) === model)?.latest_version?.openapi_schema;
  const texts = Object.entries(schema?.components.schemas.Input.properties ?? {})
    .filter(([, {type, format}]) => type === "string" && !format)
    .sort(([, one], [, other]) => one["x-order"] - other["x-order"]);
  return texts.map(([name, declared]) => input[name] ?? declared.default).filter(Boolean);
}

class Card {
  #picture = element("span", {class: "picture"});
  #title = element("span", {class: "title"});
  #state = element("span", {class: "state"});
  #button;
  #model = "";
  #output = null;

  constructor(id) {
    const select = () => {
      state.select(state.predictions.get(id));
      document.querySelector(".screen").scrollIntoView({block: "nearest", behavior: isStill() ? "auto" : "smooth"});
    };
    this.#button = element("button", {type: "button", onclick: select}, this.#picture, this.#title, this.#state);
    this.element = element("li", {class: "card", "data-id": id}, this.#button);
    this.mark(state.selected?.id);
  }

  show(prediction) {
    const {status, model} = prediction;
    this.#model = model;
    this.element.dataset.status = status;
    write(this.#title, textsOf(prediction).join(" · ").slice(0, 200) || model.split("/")[1]);
    const [words, detail] = describe(prediction);
    write(this.#state, status === "succeeded" && detail ? detail : `${words} ${detail}`);
    const output = outputsOf(prediction).at(-1) ?? null;
    if (output === this.#output) return;
    if (this.#output === null && /^https?:/.test(output)) this.element.append(compareBox(prediction.id));
    this.#output = output;
    this.#picture.replaceChildren(...(output ? [still(output, this.#button)] : []));
  }

  mark(id) {
    this.#button.setAttribute("aria-pressed", this.element.dataset.id === id);
  }

  filter(model) {
    this.element.hidden = model !== "" && model !== this.#model;
  }
}
