// The code that runs what the form describes, for each kind of client.

import {api} from "./api.js";
import {copyButton} from "./copy.js";
import {element, tabs} from "./dom.js";

const SERVER = api.base.slice(0, -"/v1".length); // Python's client and script/predict add it

/** Show the code of the form in a panel, and keep it up to date. */
export function showCode(panel, form) {
  const list = element("div", {role: "tablist", class: "tabs", "aria-label": "Languages"});
  const code = element("code");
  const text = element("pre", {role: "tabpanel", id: "snippet", tabindex: 0}, code);
  let write = null;
  const update = () => {
    if (write && form.model?.output) code.textContent = write(form.model, form.read());
  };
  const show = tabs(list, tab => {
    write = SNIPPETS[tab.textContent];
    text.setAttribute("aria-labelledby", tab.id);
    update();
  });
  for (const [index, name] of Object.keys(SNIPPETS).entries()) {
    list.append(element("button", {type: "button", role: "tab", id: `code-${index}`, "aria-controls": "snippet"}, name));
  }
  panel.append(element("div", {class: "line"}, list, copyButton(() => code.textContent)), text);
  show(list.firstChild);
  document.querySelector("#form").addEventListener("change", update);
}

const SNIPPETS = {
  Python: (model, inputs) => `\
import mimetypes

import replicate  # pip install replicate

client = replicate.Client(base_url="${SERVER}")  # the token is in REPLICATE_API_TOKEN
output = client.run(
    "${reference(model)}",
    input={
${Object.entries(inputs).map(([name, value]) => `        "${name}": ${pythonValue(value)},\n`).join("")}    },
)
${isList(model) ? `for number, file in enumerate(output):\n${indent(4, savePython(model, "file", "-{number}"))}` : savePython(model, "output", "")}
`,
  JavaScript: (model, inputs) => `\
import { writeFile } from "node:fs/promises";
import Replicate from "replicate"; // npm install replicate

const replicate = new Replicate({ baseUrl: "${api.base}" }); // the token is in REPLICATE_API_TOKEN
const output = await replicate.run("${reference(model)}", {
  input: ${json(inputs).replaceAll("\n", "\n  ")},
});
${isList(model) ? `for (const [number, file] of output.entries()) {\n${indent(2, saveJavaScript(model, "file", "-${number}"))}\n}` : saveJavaScript(model, "output", "")}
`,
  // The lines of a here-document are taken as they are, so no input needs quoting for the shell.
  curl: ({owner, name}, inputs) => `\
curl -sS ${api.base}/models/${owner}/${name}/predictions \\
  -H "Authorization: Bearer $REPLICATE_API_TOKEN" -H "Content-Type: application/json" \\
  -d @- <<'JSON'
${json({input: inputs})}
JSON
# The answer has urls.get, from which curl reads the output at the end.
`,
  "script/predict": ({owner, name}, inputs) => `\
script/predict ${owner}/${name} --server ${SERVER} --json - <<'JSON'
${json(inputs)}
JSON
`,
  JSON: (_, inputs) => `${json(inputs)}\n`,
};

const json = value => JSON.stringify(value, null, 2);
const reference = ({owner, name, version}) => `${owner}/${name}:${version}`;

const isList = ({output}) => output.type === "array";
const isFile = ({output}) => (output.items ?? output).format === "uri";
const indent = (spaces, lines) => lines.replaceAll(/^/gm, " ".repeat(spaces));

const savePython = (model, file, number) => !isFile(model) ? `print(${file})` : `\
suffix = mimetypes.guess_extension(mimetypes.guess_type(${file}.url)[0])
with open(f"output${number}{suffix}", "wb") as target:
    target.write(${file}.read())`;

const saveJavaScript = (model, file, number) => !isFile(model) ? `console.log(${file});` : `\
const blob = await ${file}.blob();
await writeFile(\`output${number}.\${blob.type.split("/")[1]}\`, blob.stream());`;

const PYTHON_NAMES = new Map([[true, "True"], [false, "False"], [null, "None"]]);

/** Return a value of JSON as Python writes it. The escapes in JSON's strings are Python's too. */
function pythonValue(value) {
  if (Array.isArray(value)) return `[${value.map(pythonValue).join(", ")}]`;
  return PYTHON_NAMES.get(value) ?? JSON.stringify(value);
}
