"""Which weight files animate-diff needs, and when each is fetched."""

from __future__ import annotations

import functools
import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from animate_diff.inputs import CHECKPOINTS, MOTION_MODULES, Inputs
from animate_diff.pipeline import Pipeline
from animate_diff.weights import FILES, fetch
from random_weights import animate_diff as recipe
from safetensors.torch import load_file
from stores import CPU, store_of
from videokit.errors import WeightsError, WeightsMissing
from videokit.runtime import Stages
from videokit.weights.stable_diffusion import BASE_TEXT_ENCODER, BASE_VAE, CONFIGS, TOKENIZER
from videokit.weights.store import WeightStore
from videokit.weights.table import Url, WeightFile


@pytest.fixture
def downloads(random_weights: Path, tmp_path: Path) -> Iterator[tuple[WeightStore, list[str]]]:
    """Yield a store whose files are all on a web server, and the paths of the server's requests."""
    requests: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append(self.path.removeprefix("/"))
            super().do_GET()

        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Handler, directory=str(random_weights))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    # the table lists the motion modules as pickles in the original layout
    for name in MOTION_MODULES:
        file = random_weights / "motion_modules" / f"{name}.ckpt"
        if not file.exists():
            recipe.write_motion_module(file, recipe.SMALL, name)
    address = f"http://127.0.0.1:{server.server_port}"
    files = [WeightFile(file.path, Url(f"{address}/{file.path}"), file.licence) for file in FILES]
    yield WeightStore(files, directories=[], cache=tmp_path / "cache"), requests
    server.shutdown()
    server.server_close()


def test_each_file_is_fetched_once_when_it_is_needed(downloads: tuple[WeightStore, list[str]], stages: Stages) -> None:
    store, requests = downloads
    first = Inputs("a cat", num_inference_steps=1, seed=1)
    pipeline = Pipeline(store, CPU)
    in_setup = {*CONFIGS, *TOKENIZER, f"checkpoints/{CHECKPOINTS[0]}", f"motion_modules/{MOTION_MODULES[0]}.ckpt"}
    assert sorted(requests) == sorted(in_setup)

    requests.clear()
    other = Inputs("a cat", "", CHECKPOINTS[2], MOTION_MODULES[2], 1, seed=1)
    for inputs in (first, other, first, other):
        assert len(list(pipeline.generate(inputs, 1, stages))) == 16
    assert requests == [f"checkpoints/{CHECKPOINTS[2]}", f"motion_modules/{MOTION_MODULES[2]}.ckpt"]


@pytest.mark.parametrize(
    ("own", "path"),
    [
        (f"motion_modules/{MOTION_MODULES[0]}", f"motion_modules/{MOTION_MODULES[0]}.ckpt"),
        (f"motion_modules/{MOTION_MODULES[0]}.safetensors", f"motion_modules/{MOTION_MODULES[0]}.ckpt"),
        (f"checkpoints/{Path(CHECKPOINTS[0]).stem}.ckpt", f"checkpoints/{CHECKPOINTS[0]}"),
    ],
)
def test_a_users_file_has_priority_over_the_published_one_with_any_of_its_names(
    random_weights: Path, tmp_path: Path, own: str, path: str
) -> None:
    user, baked, cache = (tmp_path / name for name in ("user", "model", "cache"))
    for place in (baked / "weights", cache):
        file = place / path
        file.parent.mkdir(parents=True)
        file.write_bytes(b"the published file")
    if own.startswith("motion"):
        recipe.write_motion_module(user / own, recipe.SMALL, MOTION_MODULES[0])
    else:
        (user / own).parent.mkdir(parents=True)
        torch.save(load_file(random_weights / path), user / own)
    environ = {"WEIGHTS": str(user), "WEIGHTS_CACHE": str(cache)}
    store = WeightStore.from_environment(FILES, "animate-diff", baked, environ)
    store.directories = (*store.directories, random_weights)
    assert store.get(path) == user / own
    Pipeline(store, CPU)  # reads it


def test_all_missing_files_are_named_at_once(tmp_path: Path) -> None:
    store = WeightStore.from_environment(
        FILES, "animate-diff", tmp_path, {"WEIGHTS_OFFLINE": "1", "HOME": str(tmp_path)}
    )
    with pytest.raises(WeightsMissing) as raised:
        fetch(store, CHECKPOINTS[1], MOTION_MODULES[2])
    files = (*CONFIGS, *TOKENIZER, f"checkpoints/{CHECKPOINTS[1]}", f"motion_modules/{MOTION_MODULES[2]}.ckpt")
    assert all(f"\n  {path}\n" in str(raised.value) for path in files)
    assert f"run: script/weights animate-diff {' '.join(files)}" in str(raised.value)


def test_the_table_has_size_hash_and_licence_of_every_documented_file() -> None:
    paths = {file.path for file in FILES}
    assert paths >= {f"checkpoints/{name}" for name in CHECKPOINTS}
    assert paths >= {f"motion_modules/{name}.ckpt" for name in MOTION_MODULES}
    assert paths >= {*CONFIGS, *TOKENIZER, BASE_VAE, BASE_TEXT_ENCODER}
    assert all(file.size and file.sha256 and file.licence for file in FILES)


def test_a_tokenizer_in_two_folders_is_rejected(random_weights: Path, tmp_path: Path) -> None:
    part = tmp_path / TOKENIZER[0]
    part.parent.mkdir(parents=True)
    part.write_bytes((random_weights / TOKENIZER[0]).read_bytes())
    with pytest.raises(WeightsError, match=r"belong together but are in .* and .*; put all into one folder"):
        Pipeline(store_of(tmp_path, random_weights), CPU)


def test_the_random_weights_are_the_same_bytes_every_time(random_weights: Path, tmp_path: Path) -> None:
    recipe.write(tmp_path, recipe.SMALL)
    files = [path for path in sorted(tmp_path.rglob("*")) if path.is_file()]
    assert len(files) == 18
    for path in files:
        before = random_weights / path.relative_to(tmp_path)
        assert hashlib.sha256(path.read_bytes()).digest() == hashlib.sha256(before.read_bytes()).digest(), path
