// A GIF that can be played frame by frame, where the browser has ImageDecoder.

import {Clock} from "./clock.js";

/** Return {element, media, fps} of a GIF, or null if the browser cannot read its frames. */
export async function openGif(blob) {
  if (!("ImageDecoder" in globalThis)) return null;
  const decoder = new ImageDecoder({data: await blob.arrayBuffer(), type: "image/gif"});
  await decoder.completed;
  const {image} = await decoder.decode();
  const fps = 1e6 / (image.duration || 1e5); // every frame of a model's GIF is shown as long as the first
  const element = document.createElement("canvas");
  Object.assign(element, {width: image.displayWidth, height: image.displayHeight});
  image.close();
  const context = element.getContext("2d"), frames = decoder.tracks.selectedTrack.frameCount;
  let wanted;

  async function draw(frame) {
    if (frame === wanted) return;
    wanted = frame;
    const {image} = await decoder.decode({frameIndex: frame});
    if (frame === wanted) context.drawImage(image, 0, 0);
    image.close();
  }
  const media = new Clock(frames / fps, time => draw(Math.min(Math.floor(time * fps + 1e-6), frames - 1)));
  draw(0);
  return {element, media, fps};
}
