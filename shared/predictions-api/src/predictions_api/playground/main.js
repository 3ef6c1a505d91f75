// The page: the models as tabs, a form, the stage and the history, and what happens between them.

import {api, ApiError} from "./api.js";
import {element, tabs} from "./dom.js";
import {Form} from "./form.js";
import {Gallery} from "./gallery.js";
import {notice} from "./notice.js";
import {poll} from "./poll.js";
import {Stage} from "./run.js";
import {hasEnded, nameOf, state} from "./state.js";

const find = selector => document.querySelector(selector);
const form = new Form(find("#form"));
const gallery = new Gallery();
const stage = new Stage(find("#clip"), {
  "Cancel": cancel,
  "Use these inputs": use,
  "Next seed": prediction => {
    use(prediction);
    form.fill({...form.read(), seed: ((prediction.metrics?.seed ?? 0) + 1) % 2 ** 31});
    return run();
  },
});
const showModel = tabs(find("#models"), tab => choose(tab.model));
const showView = tabs(find("#views"), tab => {
  for (const other of find("#views").children) find(`#${other.getAttribute("aria-controls")}`).hidden = other !== tab;
});

async function start() {
  state.models = (await api.get("models?sort_direction=asc")).results;
  for (const model of state.models) {
    const tab = element("button", {type: "button", role: "tab", "aria-controls": "form", title: model.description}, model.name);
    tab.model = model;
    find("#models").append(tab);
  }
  showView(find("#clip-tab"));
  if (state.models.length) showModel(tabOf(localStorage.getItem("model")) ?? find("#models").firstChild);
  gallery.listModels();
  await gallery.load();
  poll();
}

const tabOf = name => [...find("#models").children].find(tab => nameOf(tab.model) === name);

function choose(model) {
  localStorage.setItem("model", nameOf(model));
  form.show(model);
  form.latestSeed = () => state.selected?.metrics?.seed;
  state.choose(model);
  const isOther = state.selected && state.selected.model !== nameOf(model);
  if (isOther || !state.selected) state.select(null);
}

function use(prediction) {
  const tab = tabOf(prediction.model);
  if (tab && tab.model !== state.model) {
    form.show(tab.model);
    showModel(tab);
    state.select(prediction);
  }
  form.fill(prediction.input);
}

async function run() {
  notice(null);
  form.showFaults({});
  try {
    await form.ready();
    const {owner, name} = form.model;
    const prediction = state.put(await api.post(`models/${owner}/${name}/predictions`, {input: form.read()}));
    showView(find("#clip-tab"));
    state.select(prediction);
    find("#clip").scrollIntoView({block: "nearest"});
  } catch (error) {
    if (!(error instanceof ApiError && form.showFaults(error.faults))) notice(error);
  }
}

async function cancel(prediction) {
  state.put(await api.post(`predictions/${prediction.id}/cancel`));
}

find("#form").addEventListener("submit", event => {
  event.preventDefault();
  run();
});
document.addEventListener("keydown", event => {
  const {selected} = state;
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) run();
  if (event.key === "Escape" && selected && !hasEnded(selected) && !find("dialog[open]")) cancel(selected).catch(notice);
});
start().catch(notice);
