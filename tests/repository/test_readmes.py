"""What the Markdown files state is true: inputs, links and scripts. Their prose has one sentence a line."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest
from declared_inputs import RENAMED
from tree import ROOT, models, package_of
from videokit.errors import InvalidInput
from videokit.video.provenance import read_provenance

LISTED = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
DOCUMENTS = [ROOT / name for name in LISTED.splitlines()]
each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
each_model = pytest.mark.parametrize("model", models())

# In one line: the end of a sentence and the start of the next.
TWO_SENTENCES = re.compile(r"(?<!e\.g)(?<!i\.e)(?<! al)[.!?][*)\"]* +[*(\"]*[A-Z`]")


def schema_of(model: str) -> dict[str, Any]:
    """Return the properties of a model's inputs by name, in their order, with choices as `enum`."""
    schemas = json.loads((ROOT / model / "openapi.json").read_text())["components"]["schemas"]
    required = schemas["Input"].get("required", [])
    properties = sorted(schemas["Input"]["properties"].items(), key=lambda item: item[1]["x-order"])
    return {name: {**schemas.get(name, {}), **entry, "required": name in required} for name, entry in properties}


def inputs_table(model: str) -> dict[str, tuple[str, str]]:
    """Return the columns "values" and "default" of each input, in the order of the README."""
    section = (ROOT / model / "README.md").read_text().partition("\n## Inputs\n")[2].partition("\n## ")[0]
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in section.splitlines() if line.startswith("| `")]
    return {name.strip(" `"): (values.strip(), default.strip()) for name, values, default, _ in rows}


def documented_rows(model: str) -> list[tuple[str, dict[str, Any], str, str]]:
    """Return name, schema, "values" and "default" of each input that the README has."""
    table = inputs_table(model)
    return [(name, entry, *table[name]) for name, entry in schema_of(model).items() if name in table]


def is_accepted(model: str, name: str, value: float) -> bool:
    module = importlib.import_module(f"{package_of(model)}.inputs")
    required = {field.name: "a cat" for field in fields(module.Inputs) if field.default is MISSING}  # the prompts
    inputs = module.Inputs(**required | {RENAMED.get(name, name): value})
    max_frames = [lambda _: 1000] if model == "zeroscope" else []
    try:
        inputs.check(*max_frames)
    except InvalidInput:
        return False
    return True


@each_model
def test_a_readme_has_every_input_in_the_documented_order(model: str) -> None:
    assert list(inputs_table(model)) == list(schema_of(model)), f"the table of inputs in {model}/README.md"


@each_model
def test_a_readme_has_the_documented_defaults(model: str) -> None:
    for name, entry, _, default in documented_rows(model):
        value = entry.get("default")
        if value is None:
            assert default == ("required" if entry["required"] else "random" if name == "seed" else "none"), name
        elif default.endswith("...`"):
            assert value.startswith(default.strip("`").removesuffix("...")), name
        else:
            text = value if isinstance(value, str) else json.dumps(value)
            assert default == (f"`{text}`" if text else "empty"), name


@each_model
def test_a_readme_has_the_documented_choices(model: str) -> None:
    for name, entry, values, _ in documented_rows(model):
        if "enum" in entry:
            assert values == ", ".join(f"`{choice}`" for choice in entry["enum"]), name
        elif entry["type"] in ("string", "boolean"):
            assert values == ("file or URL" if "format" in entry else entry["type"]), name


# The schema lacks some bounds that the model has, so the README's are compared with the model itself.
@each_model
def test_a_readme_has_the_bounds_that_the_model_has_within_the_documented_ones(model: str) -> None:
    for name, entry, values, _ in documented_rows(model):
        if entry["type"] not in ("integer", "number") or "enum" in entry:
            continue
        match = re.fullmatch(r"(?:multiples of (?P<factor>\d+), )?(?:from )?(?P<low>\d+)(?: to (?P<high>\d+))?", values)
        assert match, f"{name}: {values!r}"
        low, high = int(match["low"]), int(match["high"] or match["low"])
        assert entry.get("minimum", low) <= low, name
        assert high <= entry.get("maximum", high), name
        assert is_accepted(model, name, low), name
        assert is_accepted(model, name, high), name
        assert not is_accepted(model, name, low - 1), name
        assert not match["high"] or not is_accepted(model, name, high + 1), name
        assert is_accepted(model, name, low + int(match["factor"] or 1)), name
        assert is_accepted(model, name, low + 1) == (match["factor"] is None), name


@each_document
def test_relative_links_lead_to_files(document: Path) -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", document.read_text())
    for target in {(link or source).partition("#")[0] for link, source in targets}:
        # ../../ of a README's page on GitHub is the repository
        target = re.sub(r"^\.\./\.\./actions/workflows/([^/]+)(/badge\.svg)?$", r".github/workflows/\1", target)
        assert re.match(r"https?://", target) or (document.parent / target).exists(), target


@each_document
def test_scripts_that_are_named_exist(document: Path) -> None:
    for name in re.findall(r"\bscript/(\w[\w-]*)", document.read_text()):
        assert (ROOT / "script" / name).is_file(), name


def prose_faults(text: str) -> list[str]:
    """Return the lines of prose with two sentences, or with a part of one; tables, code and HTML are not prose."""
    text = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)  # the YAML head of a model card
    text = re.sub(r"^```.*?^```$", "```", text, flags=re.MULTILINE | re.DOTALL)
    lines = [re.sub(r"^[>\s]+", "", line) for line in text.splitlines()]
    faults = []
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if re.match(r"[|#<]|```", line):
            continue
        sentence = re.sub(r"^([-*+]|\d+\.) +", "", line)
        is_cut = following and sentence and not re.match(r"[|#<]|```|([-*+]|\d+\.) ", following)
        if TWO_SENTENCES.search(sentence) or (is_cut and not re.search(r"[.!?:][*)\"`]*$", sentence)):
            faults.append(line)
    return faults


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("One. Two.", 1),
        ("- **One.** Two.", 1),
        ("One\ntwo.", 1),
        ("1. One.\n   Two.", 0),
        ("> One, e.g. Two.\n> Three.", 0),
        ("| One. Two. |\n\n```sh\nOne. Two.\n```", 0),
        ("One:\n- two\n- three", 0),
    ],
)
def test_two_sentences_in_a_line_are_found(text: str, count: int) -> None:
    assert len(prose_faults(text)) == count


@each_document
def test_prose_has_one_sentence_a_line(document: Path) -> None:
    assert prose_faults(document.read_text()) == []


def test_the_command_of_the_first_clip_has_its_prompt_and_seed() -> None:
    first = json.loads(read_provenance(ROOT / "animate-diff" / "example.gif").inputs["clips"][0])
    command = f'script/predict animate-diff -i prompt="{first["prompt"]}" -i seed={first["seed"]}'
    assert f"`{command}` makes the first clip." in (ROOT / "README.md").read_text()


def test_the_modules_of_the_diagram_exist() -> None:
    names = re.findall(r">(\w+)\.py<", (ROOT / ".github" / "pictures" / "way-of-a-clip.svg").read_text())
    for name in {*names} - {"encode"}:
        assert list((ROOT / "animate-diff").rglob(f"{name}.py"))
    assert (ROOT / "shared" / "videokit" / "src" / "videokit" / "video" / "encode.py").exists()
