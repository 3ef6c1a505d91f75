// The history of the server, newest first: a card for each prediction, whose clip plays while the pointer is on it.

import {api} from "./api.js";
import {compareBox, compareButton} from "./compare.js";
import {element, isStill, write} from "./dom.js";
import {notice} from "./notice.js";
import {describe} from "./run.js";
import {inputsOf} from "./schema.js";
import {still} from "./still.js";
import {modelOf, nameOf, outputsOf, state} from "./state.js";

export class Gallery {
  #list = document.querySelector("#gallery");
  #filter = document.querySelector("#filter");
  #older = document.querySelector("#older");
  #cards = new Map(); // id -> Card
  #next = ""; // the query of the page that is loaded next
  #none = document.querySelector("#none");
  #select;

  /** `select` is called with the prediction of a card that is pressed. */
  constructor(select) {
    this.#select = select;
    this.#older.after(compareButton);
    state.addEventListener("prediction", ({detail}) => this.#show(detail));
    state.addEventListener("selected", () => {
      for (const card of this.#cards.values()) card.mark(state.selected?.id);
    });
    this.#filter.onchange = () => {
      for (const card of this.#cards.values()) card.filter(this.#filter.value);
      this.#showWhetherEmpty();
    };
    this.#older.onclick = () => this.load().catch(notice);
  }

  /** Load a page of predictions: first the newest, then the ones before. */
  async load() {
    const {results, next} = await api.get(`predictions${this.#next}`);
    for (const prediction of results) state.put(prediction);
    this.#next = next && new URL(next).search;
    this.#older.hidden = !next;
    this.#showWhetherEmpty();
  }

  listModels() {
    this.#filter.append(...state.models.map(model => element("option", {value: nameOf(model)}, model.name)));
  }

  #show(prediction) {
    let card = this.#cards.get(prediction.id);
    if (!card) {
      card = new Card(prediction.id, this.#select);
      card.element.dataset.created = prediction.created_at;
      this.#cards.set(prediction.id, card);
      const after = [...this.#list.children].find(other => other.dataset.created < prediction.created_at);
      this.#list.insertBefore(card.element, after ?? null);
    }
    card.show(prediction);
    card.filter(this.#filter.value);
    if (!card.element.hidden) this.#none.hidden = true;
  }

  #showWhetherEmpty() {
    this.#none.hidden = [...this.#cards.values()].some(card => !card.element.hidden);
    this.#none.textContent = this.#filter.value ? "None of the predictions that are loaded is of this model." : "There are no predictions yet.";
  }
}

/** Return the prompts and other texts of a prediction, in the order of the form. */
function textsOf(prediction) {
  const texts = inputsOf(modelOf(prediction)).filter(([, {type, format, enum: choices}]) => type === "string" && !format && !choices);
  return texts.map(([name, declared]) => prediction.input[name] ?? declared.default).filter(Boolean);
}

class Card {
  #picture = element("span", {class: "picture"});
  #title = element("span", {class: "title", dir: "auto"});
  #state = element("span", {class: "state"});
  #button;
  #model = "";
  #output = null;

  constructor(id, select) {
    const onclick = () => {
      select(state.predictions.get(id));
      document.querySelector(".screen").scrollIntoView({block: "nearest", behavior: isStill() ? "auto" : "smooth"});
    };
    this.#button = element("button", {type: "button", onclick}, this.#picture, this.#title, this.#state);
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
