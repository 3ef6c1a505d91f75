"""Inputs of unusual kinds, and links with inputs that the form cannot hold."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlencode

import pytest
from api_in_process import ApiInProcess
from playground_page import choose, control, field, run
from playwright.sync_api import Page, expect
from predictions_api.settings import ModelSettings

# As Cog declares them: https://github.com/replicate/cog/blob/main/docs/python.md
PROPERTIES: dict[str, dict[str, Any]] = {
    "prompt": {"type": "string"},
    "tiled": {"type": "boolean"},
    "sizes": {"type": "array", "items": {"type": "integer"}},
    "scheduler": {"allOf": [{"$ref": "#/components/schemas/scheduler"}]},
    "options": {"type": "object"},
    "key": {"type": "string", "format": "password", "writeOnly": True},
    "strength": {"type": "number", "minimum": 0, "maximum": 0.5, "default": 0.25},
    "image": {"type": "string", "format": "uri"},
    "frames": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
}


def schema(properties: dict[str, dict[str, Any]], *required: str) -> dict[str, Any]:
    ordered = {name: {**declared, "x-order": place} for place, (name, declared) in enumerate(properties.items())}
    inputs = {"type": "object", "properties": ordered, "required": list(required)}
    scheduler = {"type": "string", "enum": ["DDIM", "DPM"]}
    schemas = {"Input": inputs, "Output": {"type": "string"}, "scheduler": scheduler}
    return {"openapi": "3.0.2", "info": {"title": "Cog", "version": "1"}, "components": {"schemas": schemas}}


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiInProcess]:
    directory = tmp_path_factory.mktemp("api")
    schemas = {"unusual": schema(PROPERTIES, "prompt", "tiled"), "no-inputs": schema({})}
    models = []
    for number, (name, content) in enumerate(schemas.items()):
        path = directory / f"{name}.json"
        path.write_text(json.dumps(content))
        models.append(ModelSettings(f"test/{name}", (str(number) * 64,), schema=path, urls=("http://[::1]:9",)))
    unknown = ModelSettings("test/unknown", ("9" * 64,), urls=("http://[::1]:9",))
    with ApiInProcess(directory / "data", models=(*models, unknown), tokens=()) as running:
        yield running


@pytest.fixture
def page(api: ApiInProcess, open_page: Callable[..., Page]) -> Page:
    page = open_page(api.url)
    choose(page, "unusual")
    control(page, "prompt").fill("a")
    return page


def newest_input(api: ApiInProcess) -> Any:
    """Return what the server got."""
    return api.anonymous_http.get("/v1/predictions").json()["results"][0]["input"]


def link(url: str, model: str, inputs: Any) -> str:
    return f"{url}/#test/{model}?{urlencode({'input': json.dumps(inputs)})}"


def test_a_first_visit_says_that_the_history_is_empty(page: Page) -> None:
    expect(page.locator("#history")).to_contain_text("There are no predictions yet.")


def test_a_required_switch_is_sent_and_a_choice_without_a_default_is_not(page: Page, api: ApiInProcess) -> None:
    run(page)
    assert newest_input(api) == {"prompt": "a", "tiled": False}


def test_lists_of_numbers_objects_and_choices_are_sent_as_the_schema_wants_them(page: Page, api: ApiInProcess) -> None:
    values = {"sizes": "1\n20", "options": '{"a": [1, null]}', "frames": "8"}
    for name, value in values.items():
        control(page, name).fill(value)
    control(page, "scheduler").select_option("DPM")
    run(page)
    expected = {"sizes": [1, 20], "options": {"a": [1, None]}, "frames": 8, "scheduler": "DPM"}
    assert newest_input(api) == {"prompt": "a", "tiled": False, **expected}


def test_an_invalid_value_is_a_fault_at_its_field(page: Page) -> None:
    for name, value in {"sizes": "1\nmany", "options": "{", "frames": "Infinity"}.items():
        control(page, name).fill(value)
    run(page)
    expect(field(page, "options")).to_contain_text("Invalid type. Expected: object, given: string")
    expect(field(page, "sizes")).to_contain_text("Invalid type. Expected: integer, given: string")
    expect(field(page, "frames").locator(".fault")).not_to_be_empty()


def test_a_secret_is_not_readable_and_a_small_range_has_small_steps(page: Page) -> None:
    expect(control(page, "key")).to_have_attribute("type", "password")
    field(page, "strength").get_by_role("slider").press("ArrowRight")
    expect(control(page, "strength")).to_have_value("0.255")


def test_a_model_without_inputs_or_with_unknown_ones_is_said_in_one_line(page: Page) -> None:
    choose(page, "no-inputs")
    expect(page.locator("#fields")).to_have_text("This model has no inputs.")
    choose(page, "unknown")
    text = page.locator("#fields").get_by_text("The inputs of this model are not known now.")
    assert text.evaluate("text => text.clientWidth > document.querySelector('#fields').clientWidth * 0.8")


def test_a_link_with_other_inputs_names_them_and_fills_the_others(
    api: ApiInProcess, open_page: Callable[..., Page]
) -> None:
    inputs = {"prompt": "b", "n_prompt": "c", "image": 5, "scheduler": "Euler", "sizes": [3, 4], "frames": None}
    page = open_page(link(api.url, "unusual", inputs))
    notice = page.locator("#notice")
    expect(notice).to_contain_text("The form cannot hold these inputs: n_prompt, image, scheduler.")
    expect(control(page, "prompt")).to_have_value("b")
    expect(control(page, "sizes")).to_have_value("3\n4")
    page.get_by_role("button", name="Close").click()
    expect(notice).to_be_empty()


def test_a_link_for_a_model_of_another_server_says_so(api: ApiInProcess, open_page: Callable[..., Page]) -> None:
    page = open_page(link(api.url, "gone", {"prompt": "b"}))
    expect(page.locator("#notice")).to_contain_text("This server has no model test/gone.")
    expect(page.locator("#input-prompt")).to_be_visible()


@pytest.mark.parametrize("fragment", ["%", "test/unusual?input=[1]", "test/unusual?input={", "?input=null", "a?b?c"])
def test_any_other_fragment_is_ignored(api: ApiInProcess, open_page: Callable[..., Page], fragment: str) -> None:
    page = open_page(f"{api.url}/#{fragment}")
    expect(page.locator("#input-prompt")).to_have_value("")
    expect(page.locator("#notice")).to_be_empty()
