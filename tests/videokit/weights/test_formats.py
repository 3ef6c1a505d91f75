"""A file is named for what it is, before anything in it is used, if it is not what its suffix says."""

from __future__ import annotations

import json
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save, save_file
from videokit.errors import WeightsError
from videokit.weights.formats import MAX_TENSORS, format_fault
from videokit.weights.tensors import open_checkpoint, open_tensors

PAGE = b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>"
POINTER = (
    b"version https://git-lfs.github.com/spec/v1\noid sha256:aa7fd8a2\nsize 1672133921\n"  # Git LFS' specification
)
ERROR = b'{"error":"Unauthorized","message":"The creator requires you to be logged in"}'


@pytest.mark.parametrize("name", ["a.safetensors", "a.ckpt", "a.bin", "a.pt"])
@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (PAGE, r"is a web page \(HTML\).*; download the file itself"),
        (b"\n\n  <html>", r"is a web page"),
        (POINTER, r"is a pointer of Git LFS; run `git lfs pull`"),
        (ERROR, r"is JSON text, such as a server's error message"),
        (b"GGUF\x03\x00\x00\x00" + bytes(100), r"is a GGUF file; convert it to safetensors"),
        (b"\x1f\x8b\x08" + bytes(100), r"is a compressed file; unpack it"),
        (b"", r"cut off after 0 bytes"),
        (b"\x00" * 7, r"cut off after 7 bytes"),
    ],
)
def test_a_file_under_the_name_of_a_weight_file_is_named(tmp_path: Path, name: str, content: bytes, fault: str) -> None:
    (tmp_path / name).write_bytes(content)
    for read in (open_tensors, open_checkpoint):
        with pytest.raises(WeightsError, match=rf"{name} .*{fault}"):
            read(tmp_path / name)


def test_a_pickle_under_the_name_of_a_safetensors_file_is_named(tmp_path: Path) -> None:
    for old in (False, True):
        torch.save({"weight": torch.ones(2)}, tmp_path / "a.safetensors", _use_new_zipfile_serialization=not old)
        with pytest.raises(WeightsError, match=r"is a pickle .* rename it to a\.ckpt"):
            open_tensors(tmp_path / "a.safetensors")


def test_a_file_that_is_cut_off_is_named_with_its_sizes(tmp_path: Path) -> None:
    content = save({"weight": torch.ones(1000)})
    (tmp_path / "a.safetensors").write_bytes(content[:-1])
    with pytest.raises(WeightsError, match=f"is cut off: it has {len(content) - 1} bytes.* {len(content)};"):
        open_tensors(tmp_path / "a.safetensors")
    torch.save({"weight": torch.ones(1000)}, tmp_path / "a.ckpt")
    (tmp_path / "a.ckpt").write_bytes((tmp_path / "a.ckpt").read_bytes()[:-1])
    with pytest.raises(WeightsError, match="is cut off: the end of the archive is missing"):
        open_tensors(tmp_path / "a.ckpt")


def test_other_archives_are_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.ckpt", "w") as archive:
        archive.writestr("model.safetensors", b"")
    with pytest.raises(WeightsError, match=r"is a zip archive, but not one of torch\.save; unpack it"):
        open_tensors(tmp_path / "a.ckpt")
    with zipfile.ZipFile(tmp_path / "a.ckpt", "w") as archive:
        archive.writestr("lama/data.pkl", b"")
        archive.writestr("lama/code/__torch__.py", b"")
    with pytest.raises(WeightsError, match="is a TorchScript program"):
        open_tensors(tmp_path / "a.ckpt")


def header(tensors: dict[str, object]) -> bytes:
    text = json.dumps(tensors).encode()
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize("count", [MAX_TENSORS, MAX_TENSORS + 1])
def test_a_safetensors_file_with_more_tensors_than_any_model_is_refused_by_its_header(
    tmp_path: Path, count: int
) -> None:
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    (tmp_path / "a.safetensors").write_bytes(header({f"t{index}": empty for index in range(count)}))
    fault = format_fault(tmp_path / "a.safetensors", "a.safetensors")
    if count > MAX_TENSORS:
        assert fault == "has 20001 tensors, and no model has more than 20000; give a file of one model"
        with pytest.raises(WeightsError, match="has 20001 tensors"):
            open_tensors(tmp_path / "a.safetensors")
    else:
        assert fault is None


def test_an_archive_with_more_records_than_any_model_is_refused_by_its_directory(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.ckpt", "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02}.")
        for index in range(MAX_TENSORS):
            archive.writestr(f"a/data/{index}", b"")
    with pytest.raises(WeightsError, match="has 20001 tensors, and no model has more than 20000"):
        open_checkpoint(tmp_path / "a.ckpt")


@pytest.mark.parametrize(
    "content",
    [
        struct.pack("<Q", 2**62) + bytes(100),
        header({}) + b"more",
        header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, "4"]}}),
        header({"a": {"dtype": "F32", "shape": [1]}}),
        header({"a": None}),
        struct.pack("<Q", 4) + b"null",
        struct.pack("<Q", 20_000) + b"[" * 20_000,
        struct.pack("<Q", 4) + b"\xff\xfe\xfd\xfc",
    ],
)
def test_an_invalid_header_is_an_error_of_weights(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(WeightsError, match=r"a\.safetensors"):
        open_tensors(tmp_path / "a.safetensors")


@pytest.mark.parametrize("content", [PAGE, POINTER, b"", b'{"a": 1', b"\xff\xff"])
def test_json_that_is_not_json_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)
    fault = format_fault(tmp_path / "config.json", "config.json")
    assert fault is not None
    assert ("web page" in fault, "Git LFS" in fault) == (content == PAGE, content == POINTER)


def test_a_text_may_be_anything_but_a_page_or_a_pointer(tmp_path: Path) -> None:
    file = tmp_path / "part"
    for content, fault in ((b"#version: 0.2\ni n\n", False), (b"", False), (PAGE, True), (POINTER, True)):
        file.write_bytes(content)
        assert (format_fault(file, "merges.txt") is not None) == fault


def test_a_right_file_has_no_fault(tmp_path: Path) -> None:
    save_file({"weight": torch.ones(2)}, tmp_path / "part", {"format": "pt"})
    assert format_fault(tmp_path / "part", "a.safetensors") is None
    assert format_fault(tmp_path / "part", "a.ckpt") is None  # the content decides
    for old in (False, True):
        torch.save({"weight": torch.ones(2)}, tmp_path / "part", _use_new_zipfile_serialization=not old)
        assert format_fault(tmp_path / "part", "a.bin") is None
    (tmp_path / "part").write_bytes(b'{"a": [1, 2.5, null]}')
    assert format_fault(tmp_path / "part", "config.json") is None


@pytest.mark.parametrize("name", ["missing.safetensors", "folder.ckpt"])
def test_a_folder_or_a_missing_file_is_an_error_of_weights(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.ckpt").mkdir()
    with pytest.raises(WeightsError, match=f"{name} cannot be read: "):
        open_tensors(tmp_path / name)
