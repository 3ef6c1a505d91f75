"""Specification of script/serve: all models of the tree behind the predictions API, or one behind its Cog server."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tomllib
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cog_local import api_config
from processes import processes_with

# The ids that design.md decides on, of the documents that the models reproduce.
DOCUMENTED = {
    "animate-diff": "lucataco/animate-diff:beecf59c4aee8d81bf04f0381033dfa10dc16e845b4ae00d281e2fa377e48a9f",
    "sd-animation": "andreasjansson/stable-diffusion-animation:"
    "ca1f5e306e5721e19c473e0d094e6603f0456fe759c10715fcd6c1b79242d4a5",
    "zeroscope": "anotherjesse/zeroscope-v2-xl:9f747673945c62801b13b84701c783929c0ee784e4748ec062204894dda1a351",
}


@pytest.fixture
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return what is in the environment of all processes that this test starts, however deep."""
    monkeypatch.setenv("STARTED_BY", str(tmp_path))
    monkeypatch.delenv("REPLICATE_API_TOKEN", raising=False)
    return f"STARTED_BY={tmp_path}"


async def _gone(mark: str) -> None:
    while processes_with(mark):
        await asyncio.sleep(0.05)


def ask(url: str, body: dict[str, Any] | None = None) -> Any:
    headers = {"Content-Type": "application/json", "Prefer": "wait"}
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=90) as answer:
        return json.load(answer)


class Serving:
    """script/serve in a tree, with the address that it told."""

    def __init__(self, tree: Path, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, tree / "script" / "serve", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert " is ready at " in line
        self.url = line.split(" is ready at ")[1].split()[0]

    def __enter__(self) -> Serving:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


@pytest.fixture
def api(tree: Path, mark: str) -> Iterator[Serving]:
    with Serving(tree, "--port", "0") as serving:
        yield serving
    asyncio.run(_gone(mark))


def test_all_models_of_the_tree_are_served_and_start_when_they_are_needed(api: Serving, mark: str) -> None:
    models = ask(f"{api.url}/v1/models")["results"]
    assert {f"{model['owner']}/{model['name']}" for model in models} == {"local/one-file", "local/several-files"}
    assert processes_with(mark) == [api.process.pid]
    done = ask(f"{api.url}/v1/models/local/one-file/predictions", {"input": {"steps": 1}})
    assert (done["status"], done["metrics"]["frames"]) == ("succeeded", 16)
    assert done["output"] == "data:video/mp4;base64,bWFkZSBvZiBub3RoaW5n"  # RFC 4648's base64 of "made of nothing"


def test_a_killed_api_leaves_no_model_behind(api: Serving, mark: str) -> None:
    ask(f"{api.url}/v1/models/local/one-file/predictions", {"input": {"steps": 1}})
    assert len(processes_with(mark)) == 4  # the API, script/serve, Cog's server and its worker
    api.process.send_signal(signal.SIGKILL)
    asyncio.run(_gone(mark))


def test_an_option_that_the_api_does_not_know_is_told(tree: Path) -> None:
    done = subprocess.run(
        [sys.executable, tree / "script" / "serve", "--nonsense"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "unrecognized arguments: --nonsense" in done.stderr


def test_a_model_that_is_not_there_is_told(tree: Path) -> None:
    done = subprocess.run(
        [sys.executable, tree / "script" / "serve", "on-file"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "one-file" in done.stderr


def test_one_model_alone_is_its_cog_server(tree: Path, mark: str) -> None:
    with Serving(tree, "one-file", "--port", "0") as serving:
        assert ask(f"{serving.url}/health-check")["status"] == "READY"
    asyncio.run(_gone(mark))


def test_a_model_ends_with_its_stdin_if_told_so(tree: Path, mark: str) -> None:
    with Serving(tree, "one-file", "--port", "0", "--until-stdin-ends") as serving:
        assert serving.process.stdin is not None
        serving.process.stdin.close()
        assert serving.process.wait(60) == 0
    assert processes_with(mark) == []


def test_the_models_are_served_under_the_names_and_ids_of_their_documents() -> None:
    for model in api_config.models():
        assert api_config.published(model) == DOCUMENTED[model]


def test_a_configuration_says_all_that_the_api_has_to_know(tree: Path) -> None:
    ask_config = [sys.executable, "-c", "from cog_local import api_config; print(api_config.write_config('demo'))"]
    done = subprocess.run(ask_config, cwd=tree / "tools", capture_output=True, text=True, check=True)
    config = tomllib.loads(Path(done.stdout.strip()).read_text())
    assert [model["name"] for model in config["models"]] == ["local/one-file", "local/several-files"]
    for model in config["models"]:
        assert json.loads(Path(model["schema"]).read_text())["components"]["schemas"]["Output"]
        assert [len(version) for version in model["versions"]] == [64]


def test_a_content_id_changes_with_the_model_and_with_nothing_else(another_tree: Path) -> None:
    def content_id() -> str:
        ask_id = [sys.executable, "-c", "from cog_local import api_config; print(api_config.content_id('one-file'))"]
        done = subprocess.run(ask_id, cwd=another_tree / "tools", capture_output=True, text=True, check=True)
        return done.stdout.strip()

    before = content_id()
    (another_tree / "one-file" / ".cog").mkdir()
    (another_tree / "one-file" / ".cog" / "openapi_schema.json").write_text("{}")
    (another_tree / "one-file" / ".ruff_cache").mkdir()
    (another_tree / "one-file" / ".ruff_cache" / "CACHEDIR.TAG").write_text("")
    (another_tree / "one-file" / "README.md").write_text("words")
    (another_tree / "several-files" / "more.py").write_text("")
    assert content_id() == before
    seen = {before}
    videokit = another_tree / "shared" / "videokit" / "src" / "videokit"
    for path in (another_tree / "one-file" / "predict.py", videokit / "encode.py"):
        path.write_text(path.read_text() + os.linesep)
        seen.add(content_id())
    assert len(seen) == 3
