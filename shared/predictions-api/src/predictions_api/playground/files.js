// The field of a file: dropped, pasted, picked or given by its URL, with a preview that plays.

import {api} from "./api.js";
import {element, isStill} from "./dom.js";

const DATA_URI_LIMIT = 256 * 1024; // bytes; larger files are uploaded

export function fileField(id) {
  let value = ""; // a URL
  let work = Promise.resolve();
  let awaited = null; // the file that is stored now
  const url = element("input", {id, type: "url", placeholder: "a URL, or drop a file here", autocomplete: "off"});
  const picker = element("input", {type: "file", accept: "image/*,video/*", hidden: true});
  const pick = element("button", {type: "button", onclick: () => picker.click()}, "Choose");
  const clear = element("button", {type: "button", "aria-label": "Remove the file", onclick: () => field.write()}, "×");
  const preview = element("div", {class: "preview", hidden: true});
  const box = element("div", {class: "file"}, element("div", {class: "row"}, url, pick, clear, picker), preview);

  const show = (source, type, note) => {
    preview.replaceChildren(...(source ? [player(source, type)] : []), note ?? "");
    preview.hidden = !source && !note;
    clear.hidden = value === "" && !note;
  };
  const changed = () => box.dispatchEvent(new Event("input", {bubbles: true}));
  const take = file => {
    work = store(file).catch(error => {
      if (awaited !== file) return;
      show(null, null, `${file.name} was not uploaded. ${error.message}`);
      throw error;
    });
    work.catch(() => {}); // reported above, and to whoever waits for it
  };
  const store = async file => {
    url.value = "";
    value = "";
    awaited = file;
    show(null, null, `Reading ${file.name} …`);
    const stored = file.size > DATA_URI_LIMIT ? (await api.upload(file)).urls.download : await dataUri(file);
    if (awaited !== file) return; // there is another one by now, or none
    value = stored;
    show(URL.createObjectURL(file), file.type, `${file.name}, ${Math.ceil(file.size / 1000)} kB`);
    changed();
  };

  picker.onchange = () => picker.files[0] && take(picker.files[0]);
  const forget = () => {
    awaited = null;
    work = Promise.resolve();
  };
  url.oninput = () => {
    forget();
    value = url.value.trim();
    show(null);
  };
  url.onpaste = event => {
    const [file] = event.clipboardData.files;
    if (!file) return;
    event.preventDefault();
    take(file);
  };
  box.ondragover = event => event.preventDefault();
  box.ondrop = event => {
    const [file] = event.dataTransfer.files;
    const dropped = event.dataTransfer.getData("text/uri-list");
    if (!file && !dropped) return;
    event.preventDefault();
    event.stopPropagation(); // a clip that is dropped elsewhere on the page fills the form
    if (file) take(file);
    else field.write(dropped);
  };

  const field = {
    element: box,
    control: url,
    ready: () => work,
    read: () => value,
    write(given = "") {
      if (typeof given !== "string") given = "";
      forget();
      const isNew = value !== given;
      value = given;
      url.value = given.startsWith("data:") ? "" : given;
      const source = given.startsWith("data:") ? given : api.own(given);
      show(source, typeOf(given), "");
      if (isNew) changed();
    },
  };
  clear.hidden = true;
  return field;
}

/** Return the media type of a URL's content, as far as its name shows it. */
export function typeOf(url) {
  const picture = /\.(png|gif|jpe?g|webp)(\?|$)/i.exec(url)?.[1];
  return /^data:([^;,]*)/.exec(url)?.[1] ?? (picture ? `image/${picture.toLowerCase()}` : "video/");
}

function player(source, type) {
  const image = element("img", {src: source, alt: "The file"});
  if (type.startsWith("image/")) return image;
  const video = element("video", {src: source, loop: true, autoplay: !isStill(), playsinline: true, controls: true, "aria-label": "The file"});
  video.muted = true;
  video.onerror = () => video.replaceWith(image); // the URL of an upload does not say what it is
  return video;
}

function dataUri(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}
