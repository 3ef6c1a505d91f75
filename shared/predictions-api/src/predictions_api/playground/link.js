// A link that holds the inputs of the form. They are in the URL's fragment, which browsers do not send to a server.

import {copyButton} from "./copy.js";

/** Return a URL of this page with the inputs for a model. */
export function linkTo({owner, name}, inputs) {
  const url = new URL(location.href);
  url.hash = `${owner}/${name}?${new URLSearchParams({input: JSON.stringify(inputs)})}`;
  return url.href;
}

/** Return the name of the model and the inputs that the page's URL holds: {model, input}, or null. */
export function readLink() {
  const [model, query] = location.hash.slice(1).split("?");
  try {
    const input = JSON.parse(new URLSearchParams(query).get("input"));
    return input !== null && typeof input === "object" && !Array.isArray(input) ? {model, input} : null;
  } catch {
    return null;
  }
}

/** Keep the page's URL that of the form, so that a reload changes nothing, and add a button that copies the URL. */
export function keepLink(form, buttons) {
  let timer;
  document.querySelector("#form").addEventListener("change", () => {
    clearTimeout(timer); // browsers limit how often a page may change its URL
    timer = setTimeout(() => history.replaceState(null, "", linkTo(form.model, form.read())), 300);
  });
  buttons.append(copyButton(() => linkTo(form.model, form.read()), "Copy link"));
}
