"""Textual inversions in all layouts are read, anything else is refused, and nothing is executed."""

from __future__ import annotations

import hashlib
import os
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from videokit.errors import WeightsError
from videokit.weights.inversion_file import MAX_BYTES, read_textual_inversion

VECTORS = torch.randn(8, 768, generator=torch.Generator().manual_seed(0))


def automatic1111(vectors: torch.Tensor, **changes: object) -> dict[str, Any]:
    """Return what AUTOMATIC1111's `Embedding.save` stores."""
    content = {"string_to_token": {"*": 265}, "string_to_param": {"*": vectors}, "name": "bad", "step": 4999}
    return {**content, "sd_checkpoint": "cc6cb27103", "sd_checkpoint_name": "sd-v1-5", **changes}


def parameter_dict(vectors: torch.Tensor) -> nn.ParameterDict:
    """Return the dictionary of the first training program, rinongal/textual_inversion, as torch 1.11 stored it."""
    content = nn.ParameterDict()
    content.__dict__["_parameters"] = {"*": nn.Parameter(vectors)}
    content.__dict__.pop("_keys", None)
    return content


LAYOUTS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "AUTOMATIC1111, zip": ("a.pt", lambda path: torch.save(automatic1111(VECTORS), path)),
    "AUTOMATIC1111, half": ("a.pt", lambda path: torch.save(automatic1111(VECTORS.half()), path)),
    "AUTOMATIC1111, parameter": ("a.pt", lambda path: torch.save(automatic1111(nn.Parameter(VECTORS)), path)),
    "AUTOMATIC1111, legacy": (
        "a.bin",
        lambda path: torch.save(automatic1111(VECTORS), path, _use_new_zipfile_serialization=False),
    ),
    "AUTOMATIC1111, safetensors": ("a.safetensors", lambda path: save_file({"emb_params": VECTORS}, path)),
    "first program": (
        "a.pt",
        lambda path: torch.save(automatic1111(VECTORS, string_to_param=parameter_dict(VECTORS)), path),
    ),
    "diffusers, bin": ("a.bin", lambda path: torch.save({"<bad>": VECTORS}, path)),
    "diffusers, safetensors": ("A.SAFETENSORS", lambda path: save_file({"<bad>": VECTORS}, path)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_is_read(tmp_path: Path, layout: str) -> None:
    name, write = LAYOUTS[layout]
    write(path := tmp_path / name)
    inversion = read_textual_inversion(path, "bad", 768)
    torch.testing.assert_close(inversion.vectors, VECTORS, rtol=1e-3, atol=1e-3 if "half" in layout else 0)
    assert inversion.vectors.dtype is torch.float32
    assert inversion.describe() == {
        "name": "bad",
        "vectors": 8,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }


@pytest.mark.parametrize("name", ["a.bin", "a.safetensors"])
def test_a_single_vector_without_an_axis_is_one_vector(tmp_path: Path, name: str) -> None:
    write = save_file if name.endswith(".safetensors") else torch.save
    write({"<cat-toy>": VECTORS[0].clone()}, path := tmp_path / name)
    assert torch.equal(read_textual_inversion(path, "cat", 768).vectors, VECTORS[:1])


REFUSED: dict[str, tuple[object, str]] = {
    "Stable Diffusion 2": (automatic1111(torch.zeros(2, 1024)), r"1024 numbers \(Stable Diffusion 2\).*have 768"),
    "Stable Diffusion XL": ({"clip_l": torch.zeros(2, 768), "clip_g": torch.zeros(2, 1280)}, "Stable Diffusion XL"),
    "another width": ({"<a>": torch.zeros(2, 12)}, "vectors of 12 numbers; this text encoder's have 768"),
    "no vectors": ({"<a>": torch.zeros(0, 768)}, "0 vectors; a textual inversion has 1 to 75"),
    "too many vectors": ({"<a>": torch.zeros(76, 768)}, "76 vectors"),
    "a number": ({"<a>": torch.tensor(1.0)}, "not a textual inversion"),
    "three axes": ({"<a>": torch.zeros(1, 2, 768)}, "not a textual inversion"),
    "integers": ({"<a>": torch.zeros(2, 768, dtype=torch.int64)}, "not a textual inversion"),
    "NaN": ({"<a>": torch.full((2, 768), torch.nan)}, "not finite in float16"),
    "infinity": ({"<a>": torch.full((2, 768), torch.inf)}, "not finite in float16"),
    "over float16": ({"<a>": torch.full((2, 768), 1e5)}, "not finite in float16"),
    "a sparse tensor": ({"<a>": torch.zeros(2, 768).to_sparse()}, "not a textual inversion"),
    "two tokens": ({"<a>": VECTORS, "<b>": VECTORS}, "2 tensors; a textual inversion has one"),
    "two parameters": (automatic1111(VECTORS, string_to_param={"*": VECTORS, "+": VECTORS}), "2 tensors"),
    "no tensors": ({"a": 1}, "not a textual inversion"),
    "a list": ([VECTORS], "not a textual inversion"),
    "nothing": ({}, "not a textual inversion"),
    "empty parameters": (automatic1111(VECTORS, string_to_param={}), "not a textual inversion"),
    "a number of parameters": (automatic1111(VECTORS, string_to_param=3), "not a textual inversion"),
}


@pytest.mark.parametrize("content", REFUSED)
def test_another_content_is_refused_with_what_it_is(tmp_path: Path, content: str) -> None:
    value, message = REFUSED[content]
    torch.save(value, path := tmp_path / "bad.pt")
    with pytest.raises(WeightsError, match=message) as raised:
        read_textual_inversion(path, "bad", 768)
    assert str(path) in str(raised.value)


DAMAGED: dict[str, bytes] = {
    "empty": b"",
    "a web page": b"<!DOCTYPE html><title>Sign in</title>",
    "a Git-LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n",
    "text": b"12345678{not json",
    "a plain pickle": pickle.dumps({"<a>": [1.0] * 768}),
    "bytes": bytes(range(256)) * 10,
}


@pytest.mark.parametrize("content", DAMAGED)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_another_file_is_refused_without_advice_to_execute_it(tmp_path: Path, content: str, suffix: str) -> None:
    (path := tmp_path / f"bad{suffix}").write_bytes(DAMAGED[content])
    with pytest.raises(WeightsError, match="not a textual inversion, or it is damaged") as raised:
        read_textual_inversion(path, "bad", 768)
    assert "weights_only" not in str(raised.value)
    assert "\x1b" not in str(raised.value)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    for name, write in LAYOUTS.values():
        write(path := tmp_path / name)
        content = path.read_bytes()
        for length in range(0, len(content) - 1, 997):
            path.write_bytes(content[:length])
            with pytest.raises(WeightsError), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                read_textual_inversion(path, "bad", 768)


class Attack:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> object:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("legacy", [False, True])
def test_nothing_in_a_pickle_is_executed(tmp_path: Path, *, legacy: bool) -> None:
    content = automatic1111(VECTORS, attack=Attack(tmp_path / "executed"))
    torch.save(content, path := tmp_path / "bad.pt", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(WeightsError, match="not a textual inversion"):
        read_textual_inversion(path, "bad", 768)
    assert not (tmp_path / "executed").exists()


def test_a_checkpoint_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with (path := tmp_path / "model.pt").open("wb") as file:
        file.truncate(40 * MAX_BYTES)
    with pytest.raises(WeightsError, match=r"has 400000000 bytes; .* Move a checkpoint or a LoRA away"):
        read_textual_inversion(path, "model", 768)


def test_a_small_file_that_unpacks_to_a_large_one_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(path := tmp_path / "bad.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bad/data.pkl", bytes(3 * MAX_BYTES))
    assert path.stat().st_size < 100_000
    with pytest.raises(WeightsError, match="has 30000000 bytes"):
        read_textual_inversion(path, "bad", 768)


def test_a_tensor_that_claims_a_size_that_no_memory_holds_is_refused(tmp_path: Path) -> None:
    huge = torch.zeros(1).as_strided((10**9, 768), (0, 0))
    torch.save({"<a>": huge}, path := tmp_path / "bad.pt")
    assert path.stat().st_size < 10_000
    with pytest.raises(WeightsError, match="1000000000 vectors"):
        read_textual_inversion(path, "bad", 768)


def test_a_missing_file_or_a_directory_is_a_clear_error(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.pt", tmp_path):
        with pytest.raises(WeightsError, match="cannot be read: "):
            read_textual_inversion(path, "bad", 768)
