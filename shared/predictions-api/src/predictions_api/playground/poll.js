// Asks the server for the predictions that may have changed, those of other tabs and browsers too.

import {api} from "./api.js";
import {follow, isLost} from "./events.js";
import {notice} from "./notice.js";
import {hasEnded, state} from "./state.js";

let isOffline = false;

/** Ask again and again: often while something runs, and not while nobody sees the page. */
export async function poll() {
  if (!document.hidden) {
    try {
      await update();
      if (isOffline) notice(null);
      isOffline = false;
    } catch (error) {
      isOffline = true;
      notice(error);
    }
  }
  const isBusy = isOffline || [...state.predictions.values()].some(prediction => !hasEnded(prediction));
  setTimeout(poll, isBusy ? 1000 : 5000);
}

async function update() {
  const known = [...state.predictions.values()];
  const running = known.filter(prediction => !hasEnded(prediction)).map(prediction => prediction.created_at);
  const newest = known.map(prediction => prediction.created_at).sort().at(-1);
  const since = running.sort()[0] ?? newest ?? "";
  let query = since && `?created_after=${encodeURIComponent(since)}`;
  do {
    const {results, next} = await api.get(`predictions${query}`);
    for (const prediction of results) state.put(prediction);
    query = running.length && next && new URL(next).search; // those that have ended are loaded by a press of a button
  } while (query);
  if (state.selected && isLost(state.selected)) follow(state.selected);
}
