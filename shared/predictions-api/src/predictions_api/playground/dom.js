// Makes elements. Texts stay texts: nothing here or elsewhere on the page reads HTML out of a string of the API.

export function element(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.filter(child => child !== null && child !== undefined && child !== false));
  return node;
}

/** Return whether the system asks for little motion. */
export const isStill = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

/** Write a text to a node, if it is another one: screen readers read what is written again. */
export function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Make the buttons of a tablist work with arrow keys, and call `choose(button)` for the one that is pressed. */
export function tabs(list, choose) {
  const show = tab => {
    for (const other of list.children) {
      other.setAttribute("aria-selected", other === tab);
      other.tabIndex = other === tab ? 0 : -1;
    }
    list.scrollLeft = tab.offsetLeft - list.offsetLeft - 24; // with the end of the tab before, if the list is too long
    choose(tab);
  };
  list.onclick = ({target}) => target.role === "tab" && show(target);
  list.onkeydown = event => {
    const step = {ArrowRight: 1, ArrowLeft: -1}[event.key];
    if (!step) return;
    const all = [...list.children], next = all.at((all.indexOf(event.target) + step) % all.length);
    event.preventDefault();
    next.focus();
    show(next);
  };
  return show;
}
