// What a model is: its examples, which fill the form, and its README.

import {api} from "./api.js";
import {element} from "./dom.js";
import {notice} from "./notice.js";
import {still} from "./still.js";
import {nameOf, outputsOf, state} from "./state.js";

// The server has removed scripts from the HTML, and the policy of the page runs none.
const policy = globalThis.trustedTypes?.createPolicy("readme", {createHTML: html => html});

/** Show the chosen model while the panel is shown. `use` is called with an example that is picked. */
export function showAbout(panel, use) {
  let shown = null;
  const show = async () => {
    if (panel.hidden || shown === state.model) return;
    const model = (shown = state.model);
    panel.replaceChildren(element("p", {role: "status"}, "Loading …"));
    try {
      const content = await contentOf(model, use);
      if (shown === model) panel.replaceChildren(...content);
    } catch (error) {
      shown = null; // loads again when the panel is shown again
      panel.replaceChildren();
      notice(error);
    }
  };
  panel.addEventListener("show", show);
  state.addEventListener("model", show);
}

async function contentOf(model, use) {
  const path = `models/${nameOf(model)}`;
  const noReadme = error => (error.status === 404 ? "<p>This model has no README.</p>" : Promise.reject(error));
  const [{results}, html] = await Promise.all([api.get(`${path}/examples`), api.text(`${path}/readme`, "text/html").catch(noReadme)]);
  const cards = results.map(example => cardOf(example, use));
  const article = element("article", {class: "readme"});
  article.append(...new DOMParser().parseFromString(policy ? policy.createHTML(html) : html, "text/html").body.childNodes);
  return [element("ul", {class: "examples", "aria-label": "Examples"}, ...cards), article];
}

function cardOf(example, use) {
  const texts = Object.values(example.input).filter(value => typeof value === "string" && value.includes(" "));
  const picture = element("span", {class: "picture"}), title = element("span", {class: "title"}, texts.join(" → ") || example.id);
  const button = element("button", {type: "button", title: "Use these inputs", onclick: () => use(example)}, picture, title);
  picture.append(...outputsOf(example).slice(-1).map(output => still(output, button)));
  return element("li", {class: "card"}, button);
}
