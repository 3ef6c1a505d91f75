// <clip-player src type>: a clip or a picture with its controls. The property `fps` comes from the model's metrics.

import {api} from "./api.js";
import {control, Controls} from "./controls.js";
import {element, isStill} from "./dom.js";
import {openGif} from "./gif.js";

/** Return the frames per second of a prediction's clips, or null. */
export const fpsOf = ({metrics}) => (metrics?.duration ? metrics.frames / metrics.duration : null);

/**
 * Return {element, media, fps} of a file; `media` has the methods of a video, and is null for a picture.
 * The element of a file that the browser cannot show is a link to it.
 */
export async function openClip(src, type, fps) {
  const gif = type === "image/gif" ? await api.blob(src).then(openGif).catch(() => null) : null;
  if (gif) return gif;
  const media = type.startsWith("video/") ? element("video", {src, playsinline: true, "aria-label": "The clip"}) : null;
  if (media) media.muted = true;
  const shown = media ?? element("img", {src, alt: "The clip"});
  const isShown = await new Promise(resolve => {
    shown.onloadedmetadata = shown.onload = () => resolve(true);
    shown.onerror = () => resolve(false);
  });
  if (isShown) return {element: shown, media, fps};
  return {element: downloadLink(src, "The browser cannot show this file. Download it."), media: null, fps};
}

/** Return a link that downloads a file of the server. */
export const downloadLink = (href, text) => element("a", {href, download: "", target: "_blank", class: "file-link"}, text);

class ClipPlayer extends HTMLElement {
  #media = null;
  #controls = null;
  #fps = null;

  /** Metrics arrive after the clip. */
  set fps(fps) {
    this.#fps = fps;
    if (this.#controls && fps) this.#controls.fps = fps;
  }

  async connectedCallback() {
    if (this.firstChild) return;
    const src = this.getAttribute("src");
    const screen = element("div", {class: "view"});
    this.append(screen);
    const clip = await openClip(src, this.getAttribute("type"), this.#fps);
    this.#media = clip.media;
    screen.append(clip.element);
    const more = [
      element("a", {href: src, download: "", target: "_blank", class: "button", "aria-label": "Download", title: "Download"}, "↓"),
      document.fullscreenEnabled && control("Full screen", "⤢", () => (document.fullscreenElement ? document.exitFullscreen() : this.requestFullscreen())),
    ].filter(Boolean);
    if (clip.element.localName === "a") return;
    if (clip.media) this.#controls = new Controls(clip.media, this.#fps ?? clip.fps, ...more);
    this.append(this.#controls?.element ?? element("div", {class: "controls"}, ...more));
    if (this.isConnected && !isStill()) clip.media?.play().catch(() => {});
  }

  disconnectedCallback() {
    this.#media?.pause();
  }
}

customElements.define("clip-player", ClipPlayer);
