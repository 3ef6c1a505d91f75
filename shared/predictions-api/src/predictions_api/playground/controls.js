// The controls of a clip: play, frames, loop and speed. They work with a <video> and with a Clock.

import {element} from "./dom.js";

const SPEEDS = [0.1, 0.25, 0.5, 1, 2];

export class Controls {
  #media;
  #fps = 25; // until it is known
  #play = control("Play", "▶", () => (this.#media.paused ? this.#media.play() : this.#media.pause()));
  #frame = element("input", {type: "range", min: 0, "aria-label": "Frame", oninput: () => this.seek(this.#frame.valueAsNumber)});
  #number = element("span", {class: "frame"});

  /** `more`: further elements at the end. */
  constructor(media, fps, ...more) {
    this.#media = media;
    this.#fps = fps ?? this.#fps;
    const loop = control("Loop", "↻", () => loop.setAttribute("aria-pressed", (media.loop = !media.loop)));
    loop.setAttribute("aria-pressed", (media.loop = true));
    const speed = element("select", {"aria-label": "Speed", onchange: () => (media.playbackRate = Number(speed.value))},
      ...SPEEDS.map(value => element("option", {value, selected: value === 1}, `${value}×`)));
    this.element = element("div", {class: "controls"}, this.#play,
      control("Previous frame", "‹", () => this.seek(this.#current - 1)), control("Next frame", "›", () => this.seek(this.#current + 1)),
      this.#frame, this.#number, loop, speed, ...more);
    for (const event of ["play", "pause", "timeupdate", "loadedmetadata"]) media.addEventListener(event, () => this.#update());
    this.#update();
  }

  set fps(fps) {
    this.#fps = fps;
    this.#update();
  }

  /** Pause at a frame. The middle of its time is that frame after rounding too. */
  seek(frame) {
    this.#media.pause();
    this.#media.currentTime = (Math.max(0, Math.min(frame, this.#count - 1)) + 0.5) / this.#fps;
  }

  get #count() {
    return Math.max(1, Math.round(this.#media.duration * this.#fps) || 1);
  }

  get #current() {
    return Math.min(Math.floor(this.#media.currentTime * this.#fps + 1e-3), this.#count - 1);
  }

  #update() {
    const name = this.#media.paused ? "Play" : "Pause";
    this.#play.textContent = {Play: "▶", Pause: "❚❚"}[name];
    this.#play.ariaLabel = this.#play.title = name;
    this.#frame.max = this.#count - 1;
    this.#frame.value = this.#current;
    this.#number.textContent = `${this.#current + 1}/${this.#count}`;
  }
}

/** Return a button with a sign and a name. */
export function control(name, sign, onclick) {
  return element("button", {type: "button", "aria-label": name, title: name, onclick}, sign);
}
