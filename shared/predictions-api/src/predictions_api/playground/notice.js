// A line in front of the page: what went wrong outside of the fields, and what to do.

import {write} from "./dom.js";

const line = document.querySelector("#notice");
document.querySelector("#close-notice").onclick = () => notice(null);

/** Show an error, or nothing. */
export function notice(error) {
  const text = error ? [error.title, error.detail].filter(Boolean).join(". ") || error.message : "";
  write(line, text);
}
