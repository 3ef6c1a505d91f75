// The methods of a video for what is no <video>: a clock that shows a moment.

export class Clock extends EventTarget {
  paused = true;
  loop = true;
  playbackRate = 1;
  #time = 0;
  #show;

  /** `show(time)` is called with each moment, in seconds. */
  constructor(duration, show) {
    super();
    this.duration = duration;
    this.#show = show;
  }

  get currentTime() {
    return this.#time;
  }

  set currentTime(time) {
    this.#time = Math.max(0, Math.min(time, this.duration));
    this.#show(this.#time);
    this.dispatchEvent(new Event("timeupdate"));
  }

  async play() {
    if (!this.paused) return;
    this.paused = false;
    if (this.#time >= this.duration) this.#time = 0;
    this.dispatchEvent(new Event("play"));
    let before = performance.now();
    const tick = now => {
      if (this.paused) return;
      const time = this.#time + ((now - before) / 1000) * this.playbackRate;
      before = now;
      this.currentTime = this.loop ? time % this.duration : time;
      if (this.#time < this.duration) requestAnimationFrame(tick);
      else this.pause();
    };
    requestAnimationFrame(tick);
  }

  pause() {
    this.paused = true;
    this.#show(this.#time);
    this.dispatchEvent(new Event("pause"));
  }
}
