"""A place that comes first has priority with any of the names of a file; the log states where each part came from."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from videokit.errors import WeightsError
from videokit.weights.places import names_of
from videokit.weights.store import WeightStore
from videokit.weights.table import WeightFile

UNET = "base/unet/diffusion_pytorch_model.fp16.safetensors"
TEXT = "base/text_encoder/model.fp16.safetensors"
PICKLE = "xl/text_encoder/pytorch_model.bin"
CONFIG = "base/unet/config.json"


def write(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("path", "names"),
    [
        # as diffusers' and transformers' save_pretrained name them, with and without variant and safe_serialization
        (
            "unet/diffusion_pytorch_model.fp16.safetensors",
            [
                "unet/diffusion_pytorch_model.fp16.safetensors",
                "unet/diffusion_pytorch_model.safetensors",
                "unet/diffusion_pytorch_model.fp16.bin",
                "unet/diffusion_pytorch_model.bin",
            ],
        ),
        ("model.fp16.safetensors", ["model.fp16.safetensors", "model.safetensors", "pytorch_model.fp16.bin"]),
        ("pytorch_model.bin", ["pytorch_model.safetensors", "model.safetensors", "pytorch_model.bin"]),
        ("checkpoints/toonyou.safetensors", ["checkpoints/toonyou.safetensors", "checkpoints/toonyou.ckpt"]),
        ("motion_modules/mm.ckpt", ["motion_modules/mm.safetensors", "motion_modules/mm.ckpt"]),
        ("V2.0/a.b.safetensors", ["V2.0/a.b.safetensors", "V2.0/a.b.ckpt"]),
    ],
)
def test_a_file_of_the_table_has_the_names_that_programs_give_it(path: str, names: list[str]) -> None:
    found = names_of(path)
    assert [name for name in found if name in names] == names  # in this order
    assert len(set(found)) == len(found)


@pytest.mark.parametrize("path", ["unet/config.json", "tokenizer/tokenizer_config.json", "README", "a.b/c"])
def test_other_files_have_one_name(path: str) -> None:
    assert names_of(path) == [path]


@pytest.mark.parametrize(
    ("path", "own"),
    [
        (UNET, "base/unet/diffusion_pytorch_model.safetensors"),
        (UNET, "base/unet/diffusion_pytorch_model.bin"),
        (UNET, "base/unet/diffusion_pytorch_model.fp16.bin"),
        (TEXT, "base/text_encoder/model.safetensors"),
        (TEXT, "base/text_encoder/pytorch_model.bin"),
        (PICKLE, "xl/text_encoder/model.safetensors"),
        (PICKLE, "xl/text_encoder/model.fp16.safetensors"),
        (PICKLE, "xl/text_encoder/pytorch_model.fp16.bin"),
        ("checkpoints/toonyou.safetensors", "checkpoints/toonyou.ckpt"),
        ("motion_modules/mm.ckpt", "motion_modules/mm.safetensors"),
        ("motion_modules/mm.ckpt", "motion_modules/mm"),
    ],
)
def test_the_first_place_has_priority_with_any_name(path: str, own: str, tmp_path: Path) -> None:
    user, baked, cache = (tmp_path / name for name in ("user", "baked", "cache"))
    write(baked / path)
    save_file({"a": torch.ones(1)}, write(cache / path))
    store = WeightStore([WeightFile(path, None, "any", or_folder=True)], directories=[user, baked], cache=cache)
    assert store.get(path) == baked / path
    if Path(own).suffix:
        write(user / own)
    else:
        (user / own).mkdir(parents=True)
    assert store.get(path) == user / own


def test_only_some_files_may_be_folders(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "toonyou").mkdir(parents=True)
    store = WeightStore([WeightFile("checkpoints/toonyou.ckpt", None, "any")], directories=[tmp_path], cache=None)
    assert store.find("checkpoints/toonyou.ckpt") is None


def test_a_tokenizer_in_one_file_replaces_its_parts(tmp_path: Path) -> None:
    """What transformers 5 saves: tokenizer.json and tokenizer_config.json."""
    parts = [f"tokenizer/{name}" for name in ("vocab.json", "merges.txt", "special_tokens_map.json")]
    files = [WeightFile(path, None, "any") for path in (*parts, "tokenizer/tokenizer_config.json")]
    user, baked = tmp_path / "user", tmp_path / "baked"
    for file in files:
        write(baked / file.path, "{}")
    whole = write(user / "tokenizer" / "tokenizer.json", "{}")
    store = WeightStore(files, directories=[user, baked], cache=None)
    assert [store.get(path) for path in parts] == [whole] * 3


class TestMixtures:
    def store(self, tmp_path: Path, sha256: str | None = None) -> WeightStore:
        files = [WeightFile(CONFIG, None, "any", sha256=sha256), WeightFile(UNET, None, "any")]
        write(tmp_path / "baked" / CONFIG, '{"published": true}')
        write(tmp_path / "baked" / UNET)
        return WeightStore(files, directories=[tmp_path / "user", tmp_path / "baked"], cache=None)

    def test_a_users_configuration_with_published_weights_is_refused(self, tmp_path: Path) -> None:
        store = self.store(tmp_path)
        store.refuse_mixture(CONFIG, UNET)
        own = write(tmp_path / "user" / CONFIG, "{}")
        with pytest.raises(WeightsError) as raised:
            store.refuse_mixture(CONFIG, UNET)
        for text in (str(own), str(tmp_path / "baked" / UNET), "store the weights next to their configuration"):
            assert text in str(raised.value)

    def test_a_users_configuration_and_weights_are_used(self, tmp_path: Path) -> None:
        store = self.store(tmp_path)
        write(tmp_path / "user" / CONFIG, "{}")
        write(tmp_path / "user" / UNET.replace(".fp16", ""))
        store.refuse_mixture(CONFIG, UNET)

    def test_a_users_weights_with_the_published_configuration_are_used(self, tmp_path: Path) -> None:
        write(tmp_path / "user" / UNET)
        self.store(tmp_path).refuse_mixture(CONFIG, UNET)

    def test_a_copy_of_the_published_configuration_is_used(self, tmp_path: Path) -> None:
        content = '{"published": true}'
        store = self.store(tmp_path, hashlib.sha256(content.encode()).hexdigest())
        write(tmp_path / "user" / CONFIG, content)
        store.refuse_mixture(CONFIG, UNET)


def test_the_log_has_the_location_of_each_file_of_tensors_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = [WeightFile(path, None, "any") for path in (CONFIG, UNET, TEXT)]
    write(tmp_path / CONFIG, "{}")
    for path in (UNET, TEXT):
        write(tmp_path / path)
    store = WeightStore(files, directories=[tmp_path], cache=None)
    with caplog.at_level("INFO", "videokit"):
        store.fetch([CONFIG, UNET])
        store.fetch([CONFIG, UNET, TEXT])
        store.get(UNET)
    assert caplog.messages == [f"weights: {path}: {tmp_path / path}" for path in (UNET, TEXT)]


def test_a_users_configuration_that_is_not_json_is_named_and_kept(tmp_path: Path) -> None:
    page = write(tmp_path / "user" / CONFIG, "<!DOCTYPE html><html></html>")
    store = WeightStore([WeightFile(CONFIG, None, "any")], directories=[tmp_path / "user"], cache=tmp_path / "cache")
    with pytest.raises(WeightsError, match=r"user/base/unet/config\.json is a web page"):
        store.get(CONFIG)
    assert page.exists()
