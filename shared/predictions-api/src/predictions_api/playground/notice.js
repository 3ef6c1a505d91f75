// One line at the bottom of the page: what went wrong outside of the fields, and what to do.

const line = document.querySelector("#notice");

/** Show an error, or nothing. */
export function notice(error) {
  const text = error ? [error.title, error.detail].filter(Boolean).join(". ") || error.message : "";
  if (line.textContent !== text) line.textContent = text;
}
