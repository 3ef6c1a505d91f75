// The log of a prediction, as text.

import {element} from "./dom.js";

const LIMIT = 100_000; // characters; a longer log is shown from there on

export class Logs {
  #text = element("pre", {tabindex: 0, role: "group", "aria-label": "Log"});
  element = element("details", {class: "logs"}, element("summary", {}, "Log"), this.#text);
  #shown = "";

  show(logs = "") {
    if (logs === this.#shown) return;
    this.#shown = logs;
    const {scrollTop, scrollHeight, clientHeight} = this.#text;
    // As in a terminal, a carriage return begins its line again.
    const lines = logs.slice(-LIMIT).split("\n").map(line => line.replace(/\r$/, "").split("\r").at(-1));
    this.#text.textContent = lines.join("\n");
    if (scrollTop + clientHeight >= scrollHeight - 20) this.#text.scrollTop = this.#text.scrollHeight;
  }
}
