// The page: the models as tabs, a form, the stage and the history, and what happens between them.

import {api, ApiError} from "./api.js";
import {showCode} from "./code.js";
import {element, tabs} from "./dom.js";
import {acceptClips} from "./drop.js";
import {Form} from "./form.js";
import {Gallery} from "./gallery.js";
import {keepLink, readLink} from "./link.js";
import {notice} from "./notice.js";
import {poll} from "./poll.js";
import {showAbout} from "./readme.js";
import {Stage} from "./run.js";
import {hasEnded, nameOf, state} from "./state.js";

const find = selector => document.querySelector(selector);
const form = new Form(find("#form"));
const gallery = new Gallery(show);
new Stage(find("#clip"), {
  "Cancel": prediction => cancel(prediction),
  "Use these inputs": prediction => use(prediction),
  "Next seed": prediction => {
    use(prediction, 1);
    run();
  },
});

const panelOf = tab => find(`#${tab.getAttribute("aria-controls")}`);
const tabOf = name => [...find("#models").children].find(tab => nameOf(tab.model) === name);
const showModel = tabs(find("#models"), tab => choose(tab.model));
const showView = tabs(find("#views"), tab => {
  for (const other of find("#views").children) panelOf(other).hidden = other !== tab;
  panelOf(tab).dispatchEvent(new Event("show"));
});

async function start() {
  state.models = (await untilAnswered(() => api.get("models?sort_direction=asc"))).results;
  find("#models").append(...state.models.map(model => {
    const tab = element("button", {type: "button", role: "tab", "aria-controls": "form", title: model.description}, model.name);
    tab.model = model;
    return tab;
  }));
  gallery.listModels();
  showView(find("#clip-tab"));
  const first = tabOf(localStorage.getItem("model")) ?? find("#models").firstChild;
  if (!first) return notice({title: "This server has no models", detail: "Its configuration has to name one."});
  showModel(first);
  useLink();
  await untilAnswered(() => gallery.load());
  if (!state.selected) selectRunning();
  poll();
}

/** Return the answer of the server, which is asked again until it answers. */
async function untilAnswered(ask) {
  for (let isOffline = false; ; isOffline = true) {
    try {
      const answer = await ask();
      if (isOffline) notice(null);
      return answer;
    } catch (error) {
      notice(error);
      await new Promise(resolve => setTimeout(resolve, 1000));
    }
  }
}

function choose(model) {
  localStorage.setItem("model", nameOf(model));
  find("#description").textContent = model.description ?? "";
  form.show(model);
  form.latestSeed = () => (state.selected ?? model.default_example)?.metrics?.seed;
  state.choose(model);
  if (state.selected?.model !== nameOf(model)) selectRunning();
}

/** Show the newest prediction of the model that has not ended, if there is one. */
function selectRunning() {
  const running = [...state.predictions.values()].filter(one => one.model === nameOf(state.model) && !hasEnded(one));
  state.select(running.sort((one, other) => (one.created_at < other.created_at ? 1 : -1))[0] ?? null);
}

/** Show a prediction or an example. */
function show(prediction) {
  showView(find("#clip-tab"));
  state.select(prediction);
}

/** Fill the form with the inputs of a prediction, and with its seed or one of those after it. */
function use(prediction, step = 0) {
  const {model, input, metrics} = prediction;
  if (tabOf(model) && model !== nameOf(state.model)) showModel(tabOf(model));
  const others = form.fill(Number.isInteger(metrics?.seed) ? {...input, seed: (metrics.seed + step) % 2 ** 31} : input);
  if (others.length) notice({title: `The form cannot hold these inputs: ${others.join(", ")}`, detail: "It has the others"});
}

/** Show the form of the model whose prediction is on the stage. */
function followSelected() {
  const tab = tabOf(state.selected?.model);
  if (tab && tab.model !== state.model) showModel(tab);
}

function useLink() {
  const link = readLink();
  if (!link) return;
  if (tabOf(link.model)) use(link);
  else notice({title: `This server has no model ${link.model}`, detail: "The link is for another server"});
}

let isSending = false;

async function run() {
  if (isSending) return; // a second press before the answer
  setSending(true);
  notice(null);
  try {
    await form.ready();
    const {owner, name} = form.model;
    const prediction = state.put(await api.post(`models/${owner}/${name}/predictions`, {input: form.read()}));
    show(prediction);
    find(".screen").scrollIntoView({block: "nearest"});
  } catch (error) {
    const control = error instanceof ApiError && form.showFaults(error.faults);
    if (control) control.focus();
    else notice(error);
  }
  setSending(false);
}

function setSending(value) {
  isSending = value;
  find("#send .primary").setAttribute("aria-disabled", value);
}

async function cancel(prediction) {
  try {
    state.put(await api.post(`predictions/${prediction.id}/cancel`));
  } catch (error) {
    notice(error);
  }
}

state.addEventListener("selected", followSelected);
state.addEventListener("prediction", ({detail: {id, error}}) => {
  if (!error || id !== state.selected?.id) return;
  // videokit's faults: `InvalidInput: width=257 is not a multiple of 8; try 256 or 264`, one in a line
  const lines = error.replace(/^InvalidInput: /, "").matchAll(/^(\w+)=.*$/gm);
  form.showFaults(Object.fromEntries([...lines].map(([line, name]) => [name, line])));
});
showCode(find("#code"), form);
showAbout(find("#about"), example => {
  use(example);
  show(example);
});
acceptClips(find("#send"), use);
keepLink(form, find("#send"));
addEventListener("hashchange", useLink);
find("#form").addEventListener("submit", event => {
  event.preventDefault();
  run();
});
document.addEventListener("keydown", event => {
  const {selected} = state;
  if (event.repeat || find("dialog[open]")) return;
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) find("#send .primary").click();
  if (event.key === "Escape" && selected && !hasEnded(selected)) cancel(selected);
});
start();
