"""Files of tensors are read without executing them, and memory-mapped."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from videokit.errors import WeightsError
from videokit.weights.tensors import fill, open_tensors, tensors_for


class Trap:
    """An object of a hostile pickle: it creates a file if it is executed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return (Path.touch, (self.path,))


def test_a_pickle_is_never_executed(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1), "trap": Trap(tmp_path / "executed")}, tmp_path / "evil.ckpt")
    with pytest.raises(WeightsError, match="is not safetensors or a pickle of plain tensors"):
        open_tensors(tmp_path / "evil.ckpt")
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(Trap(tmp_path / "executed"), protocol=2))
    with pytest.raises(WeightsError):
        open_tensors(tmp_path / "plain.pkl")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"\x00" * 5000, b"PK\x03\x04 cut off"])
@pytest.mark.parametrize("name", ["file.safetensors", "file.ckpt"])
def test_a_damaged_file_is_an_error_that_names_it(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=name):
        open_tensors(tmp_path / name)


def test_a_truncated_file_is_an_error(tmp_path: Path) -> None:
    for name, save in (("a.safetensors", save_file), ("a.ckpt", torch.save)):
        save({"weight": torch.ones(1000)}, tmp_path / name)
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(WeightsError, match=name):
            open_tensors(tmp_path / name)


def test_a_pickle_that_is_not_a_dictionary_is_an_error(tmp_path: Path) -> None:
    torch.save([torch.zeros(1)], tmp_path / "list.ckpt")
    with pytest.raises(WeightsError, match="contains a list"):
        open_tensors(tmp_path / "list.ckpt")


def test_the_content_decides_the_format_not_the_suffix(tmp_path: Path) -> None:
    save_file({"weight": torch.ones(2)}, tmp_path / "renamed.ckpt")
    assert torch.equal(open_tensors(tmp_path / "renamed.ckpt")["weight"], torch.ones(2))


def test_a_pickle_from_before_torch_1_6_is_read(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(2)}, tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)
    assert torch.equal(open_tensors(tmp_path / "old.ckpt")["weight"], torch.ones(2))


def test_fill_converts_values_and_keeps_the_storage(tmp_path: Path) -> None:
    parameter = torch.nn.Parameter(torch.zeros(2, 2))
    address = parameter.data_ptr()
    fill({"p": parameter}, {"p": torch.full((2, 2), 0.5, dtype=torch.bfloat16)})
    assert parameter.data_ptr() == address
    assert torch.equal(parameter.detach(), torch.full((2, 2), 0.5))


def test_a_1x1_convolution_fits_a_linear_layer(tmp_path: Path) -> None:
    found = tensors_for({"q": torch.empty(4, 4)}, {"key": torch.ones(4, 4, 1, 1)}, lambda _: ["key"], tmp_path)
    assert found["q"].shape == (4, 4)


def test_of_many_missing_keys_the_error_has_the_number_and_five_names(tmp_path: Path) -> None:
    parameters = {f"p{index}": torch.empty(1) for index in range(30)}
    with pytest.raises(WeightsError, match=r"lacks 30 keys, such as k\.p0, k\.p1, k\.p2, k\.p3, k\.p4; use"):
        tensors_for(parameters, {}, lambda name: [f"k.{name}"], tmp_path / "file")
