// What an MP4, GIF or PNG of a model states about itself. videokit/video/provenance.py writes it.

const MAX_FILE = 500e6; // bytes
// The boxes around an MP4's comment, each with the bytes before its content (ISO 14496-12; QuickTime File Format).
const MP4_PATH = [["moov", 0], ["udta", 0], ["meta", 4], ["ilst", 0], ["©cmt", 0], ["data", 8]];

/** Return what a file states, {model, inputs, seed, software}, or null for a file of another origin. */
export async function readProvenance(file) {
  try {
    if (file.size > MAX_FILE) return null;
    return parse(comment(new DataView(await file.arrayBuffer())));
  } catch {
    return null; // the file is damaged, or its comment is not JSON
  }
}

function parse(text) {
  if (/[^ -~]/.test(text)) return null; // a model writes ASCII
  const {model, inputs, seed, software, digitalSourceType} = JSON.parse(text);
  const values = Object.values(inputs).flat();
  const isOurs = [model, software, digitalSourceType].every(item => typeof item === "string") && Number.isInteger(seed) && seed >= 0;
  return isOurs && values.every(value => value === null || typeof value !== "object") ? {model, inputs, seed, software} : null;
}

// The functions below throw RangeError at the end of the file.

const latin1 = new TextDecoder("latin1");
const text = (view, at, size) => latin1.decode(new Uint8Array(view.buffer, at, size));

function comment(view) {
  if (text(view, 1, 3) === "PNG") return pngComment(view);
  return text(view, 0, 4) === "GIF8" ? gifComment(view) : mp4Comment(view);
}

/** Return the text chunk with the keyword Comment (PNG specification, 11.3.3). */
function pngComment(view) {
  for (let at = 8; ; ) {
    const size = view.getUint32(at);
    if (text(view, at + 4, 4) === "tEXt" && text(view, at + 8, 8) === "Comment\0") return text(view, at + 16, size - 8);
    at += 12 + size;
  }
}

/** Return the last Comment Extension (GIF89a section 24). */
function gifComment(view) {
  const coloursSize = flags => (flags & 0x80 ? 3 << ((flags & 7) + 1) : 0);
  let at = 13 + coloursSize(view.getUint8(10)), found = null;
  for (let kind; (kind = text(view, at, 1)) !== ";"; at += 1) {
    const isComment = kind === "!" && view.getUint8(at + 1) === 0xfe, parts = [];
    at += kind === "," ? 11 + coloursSize(view.getUint8(at + 9)) : 2; // an image has a descriptor and its own colours
    for (let size; (size = view.getUint8(at)); at += 1 + size) if (isComment) parts.push(text(view, at + 1, size));
    if (isComment) found = parts.join("");
  }
  return found;
}

function mp4Comment(view) {
  let at = 0, end = view.byteLength;
  for (const [name, header] of MP4_PATH) {
    [at, end] = findBox(view, name, at, end);
    at += header;
  }
  return text(view, at, end - at);
}

/** Return the start and the end of the content of a box. */
function findBox(view, name, at, end) {
  for (;;) {
    let size = view.getUint32(at), start = at + 8;
    if (size === 1) {
      size = Number(view.getBigUint64(at + 8));
      start += 8;
    }
    const stop = size === 0 ? end : at + size;
    if (stop < start || stop > end) throw new RangeError("the file is damaged");
    if (text(view, at + 4, 4) === name) return [start, stop];
    at = stop;
  }
}
