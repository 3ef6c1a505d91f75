// A button that copies a text.

import {element} from "./dom.js";

/** Return a button that copies the result of `text()`. */
export function copyButton(text, label = "Copy") {
  const button = element("button", {type: "button", "aria-live": "polite", onclick: copy}, label);

  async function copy() {
    button.textContent = (await write(text())) ? "Copied" : "Not copied";
    setTimeout(() => (button.textContent = label), 1500);
  }
  return button;
}

/** Copy a text, and return whether that worked. Pages from http://OTHER-MACHINE have no navigator.clipboard. */
async function write(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = element("textarea", {class: "off-screen"});
    area.value = text;
    document.body.append(area);
    area.select();
    const isCopied = document.execCommand("copy");
    area.remove();
    return isCopied;
  }
}
