// A small picture of an output, which plays while the pointer or the focus is on its card.

import {api} from "./api.js";
import {element} from "./dom.js";
import {typeOf} from "./files.js";

/** Return an element that shows the first frame of an output, and plays it while `card` is used. */
export function still(output, card) {
  const url = output.startsWith("data:") ? output : api.own(output);
  if (!url || /\.(txt|json)$/.test(url)) return element("span", {class: "text"}, output.slice(0, 500));
  return typeOf(output).startsWith("image/") ? picture(url, card) : video(url, card);
}

function video(url, card) {
  const clip = element("video", {loop: true, playsinline: true, preload: "metadata", tabindex: -1, "aria-hidden": "true"});
  clip.muted = true;
  clip.onerror = () => clip.remove();
  whenSeen(clip, () => (clip.src = url));
  plays(card, () => clip.play().catch(() => {}), () => clip.pause());
  return clip;
}

/** Return a canvas with the first frame of a picture, as a GIF would play without end. */
function picture(url, card) {
  const canvas = element("canvas", {"aria-hidden": "true"}), image = new Image();
  image.alt = "";
  image.onload = () => {
    Object.assign(canvas, {width: image.naturalWidth, height: image.naturalHeight});
    canvas.getContext("2d").drawImage(image, 0, 0);
  };
  image.onerror = () => canvas.remove();
  whenSeen(canvas, () => (image.src = url));
  plays(card, () => canvas.replaceWith(image), () => image.replaceWith(canvas));
  return canvas;
}

function plays(card, start, stop) {
  card.addEventListener("pointerenter", start);
  card.addEventListener("focus", start);
  card.addEventListener("pointerleave", stop);
  card.addEventListener("blur", stop);
}

const waiting = new WeakMap();
const observer = new IntersectionObserver(entries => {
  for (const {isIntersecting, target} of entries) {
    if (!isIntersecting) continue;
    observer.unobserve(target);
    waiting.get(target)();
  }
}, {rootMargin: "300px"});

function whenSeen(node, load) {
  waiting.set(node, load);
  observer.observe(node);
}
