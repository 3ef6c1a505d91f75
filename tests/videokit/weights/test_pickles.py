"""A checkpoint's tensors are read with any other content in its pickle, and nothing in it is executed."""

from __future__ import annotations

import gc
import os
import resource
import sys
import types
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from videokit.errors import WeightsError
from videokit.weights.formats import MAX_TENSORS
from videokit.weights.tensors import format_keys, open_checkpoint, open_tensors


@pytest.fixture
def framework() -> Iterator[types.ModuleType]:
    """Yield a package that exists when a file is written; tests remove it before they read."""
    module = types.ModuleType("absent_framework")

    class Callback: ...

    class Settings(dict[str, Any]):
        """Pickled with items and attributes."""

        def __init__(self) -> None:
            super().__init__(rate=0.1)
            self.parent = [1]

    class Slotted:
        __slots__ = ("value",)

        def __init__(self) -> None:
            self.value = 3

    class Listed(list[int]): ...

    class Bag(set[int]): ...

    for kind in (Callback, Settings, Slotted, Listed, Bag):
        kind.__module__, kind.__qualname__ = module.__name__, kind.__name__
        setattr(module, kind.__name__, kind)
    sys.modules[module.__name__] = module
    yield module
    sys.modules.pop(module.__name__, None)


def checkpoint(framework: types.ModuleType) -> dict[str, Any]:
    """Return a checkpoint with the objects in Lightning's, and with every way of pickling an object."""
    shared = torch.arange(24, dtype=torch.float32).view(4, 6)
    return {
        "epoch": 39,
        "callbacks": {framework.Callback: {"best_model_score": torch.tensor(0.5), "dirpath": Path("/")}},
        "optimizer_states": [{"state": defaultdict(dict, {0: {"step": np.float64(3)}}), "array": np.arange(3)}],
        "hyper_parameters": [framework.Settings(), framework.Slotted(), framework.Listed([1]), framework.Bag([1])],
        "others": [slice(1), frozenset({1}), complex(1, 2), b"bytes", bytearray(b"b"), range(3), torch.Size([2])],
        "state_dict": OrderedDict(
            {
                "weight": shared,
                "columns": shared.T[1:3],  # not contiguous, and with an offset into the storage
                "half": torch.full((3,), 0.5, dtype=torch.float16),
                "count": torch.tensor(7),
                "parameter": torch.nn.Parameter(torch.ones(2)),
                "empty": torch.zeros(0, 3),
                "settings": framework.Settings(),
            }
        ),
    }


def tensors_of(content: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {key: value for key, value in content["state_dict"].items() if isinstance(value, torch.Tensor)}


def equal(tensors: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    return tensors.keys() == expected.keys() and all(
        tensors[key].dtype == value.dtype and torch.equal(tensors[key], value) for key, value in expected.items()
    )


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_tensors_are_read_with_any_other_content(framework: types.ModuleType, tmp_path: Path, protocol: int) -> None:
    content = checkpoint(framework)
    content["state_dict"]._metadata = OrderedDict({"": {"version": 1}})  # like a module's state_dict
    torch.save(content, tmp_path / "best.ckpt", pickle_protocol=protocol)
    sys.modules.pop(framework.__name__)
    tensors = open_checkpoint(tmp_path / "best.ckpt")
    assert equal(tensors, tensors_of(content))
    assert framework.__name__ not in sys.modules  # it was not imported


def test_tensors_of_every_dtype_equal_those_of_torch_load(tmp_path: Path) -> None:
    kinds = ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"]
    content = {kind: torch.arange(5).to(getattr(torch, kind)) for kind in kinds}
    torch.save(content, tmp_path / "a.pt")
    assert equal(open_checkpoint(tmp_path / "a.pt"), torch.load(tmp_path / "a.pt", weights_only=True))


class Call:
    """Pickled as a call of `function`, as in a hostile pickle."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.function, self.arguments


def test_nothing_in_a_pickle_is_executed(tmp_path: Path) -> None:
    trap = tmp_path / "executed"
    attacks = [
        Call(Path.touch, trap),
        Call(eval, f"open({str(trap)!r}, 'w')"),
        Call(os.system, f"touch {trap}"),
        Call(setattr, str, "x", None),
        Call(torch.load, trap),
    ]
    for index, attack in enumerate(attacks):
        file = tmp_path / f"{index}.ckpt"
        torch.save({"state_dict": {"weight": torch.ones(2)}, "attack": attack, "at": {attack.function: 1}}, file)
        assert torch.equal(open_checkpoint(file)["weight"], torch.ones(2))
    assert not trap.exists()


def write_archive(path: Path, pickled: bytes) -> Path:
    """Write an archive of torch.save with another pickle."""
    torch.save({"weight": torch.ones(2)}, path)
    with zipfile.ZipFile(path) as source:
        records = {name: source.read(name) for name in source.namelist()}
    with zipfile.ZipFile(path, "w") as target:
        for name, content in records.items():
            target.writestr(name, pickled if name.endswith("data.pkl") else content)
    return path


@pytest.mark.parametrize(
    "pickled",
    [
        b"",
        b"\x80\x02",
        # BUILD on a name in the table, to change it: a class, and the function that rebuilds tensors
        b"ccollections\nOrderedDict\n}S'__init__'\nI1\nsb.",
        b"ctorch._utils\n_rebuild_tensor_v2\n}S'__call__'\nI1\nsb.",
        b"ctorch._utils\n_rebuild_tensor_v2\n(N}S'__call__'\nI1\nstb.",
        b"cabsent\nThing\n}S'__new__'\nI1\nsb.",
        b"cabsent\nThing\n(N}S'__new__'\nI1\nstb.",
        b"(I1\nI2\nl.",  # a list
        b"ctorch._utils\n_rebuild_tensor_v2\n(I1\nI2\nI3\nI4\ntR.",
        b"(S'storage'\nctorch\nFloatStorage\nS'nowhere'\nS'cpu'\nI2\ntQ.",
        b"(S'storage'\ncos\nsystem\nS'0'\nS'cpu'\nI2\ntQ.",
        # a tensor beyond the end of its storage
        b"ctorch._utils\n_rebuild_tensor_v2\n((S'storage'\nctorch\nFloatStorage\nS'0'\nS'cpu'\nI2\ntQ"
        b"I999999\n(I9\nt(I1\nttR.",
    ],
)
def test_an_invalid_pickle_is_an_error_that_names_the_file(tmp_path: Path, pickled: bytes) -> None:
    file = write_archive(tmp_path / "bad.ckpt", pickled)
    with pytest.raises(WeightsError, match=r"bad\.ckpt"):
        open_checkpoint(file)
    torch.save({"weight": torch.ones(2)}, tmp_path / "good.ckpt")
    assert torch.equal(open_checkpoint(tmp_path / "good.ckpt")["weight"], torch.ones(2))


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"PK\x03\x04 cut off"])
def test_a_damaged_file_is_an_error_that_names_it(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "best.ckpt").write_bytes(content)
    with pytest.raises(WeightsError, match=r"best\.ckpt"):
        open_checkpoint(tmp_path / "best.ckpt")


def test_a_truncated_file_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "best.ckpt"
    torch.save({"weight": torch.ones(1000)}, file)
    file.write_bytes(file.read_bytes()[:3000])
    with pytest.raises(WeightsError, match=r"best\.ckpt"):
        open_checkpoint(file)


def write_pickle(path: Path, pickled: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", pickled)
        archive.writestr("a/data/0", bytes(4))
    return path


STORAGE = b"(S'storage'\nctorch\nFloatStorage\nS'0'\nS'cpu'\nI1\ntQ"
TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n(" + STORAGE + b"I0\n(I1\nt(I1\ntI00\nNtR"


def test_an_object_whose_items_are_replaced_is_read_as_what_it_contains(tmp_path: Path) -> None:
    # an OrderedDict with one tensor, whose attribute `items` BUILD replaces by a text
    pickled = b"ccollections\nOrderedDict\n)RS'weight'\n" + TENSOR + b"s}S'items'\nS'text'\nsb."
    assert list(open_checkpoint(write_pickle(tmp_path / "a.ckpt", pickled))) == ["weight"]


@pytest.mark.parametrize(
    "pickled",
    [
        # memo number 2^28: Python's unpickler in C allocates 4 GB for it
        b"\x80\x02Nr\xff\xff\xff\x0f.",
        # a tuple of two, 64 times: its hash as a key of a dictionary would take 2^64 steps
        b"}N" + b"\x86".join([b"2"] * 65) + b"\x86Ns.",
        b"\x80\x04\x8f(N" + b"\x86".join([b"2"] * 65) + b"\x86\x90.",  # the same in a set
        b"]" * 100_000 + b"a" * 99_999 + b".",  # lists in lists
        b"\x8e\xff\xff\xff\xff\xff\xff\x00\x00.",  # bytes that are not there
        b"\x82\x01.",  # an extension
    ],
)
def test_a_hostile_pickle_is_an_error_of_weights_or_has_no_tensors(tmp_path: Path, pickled: bytes) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF)
    try:
        assert open_checkpoint(write_pickle(tmp_path / "a.ckpt", pickled)) == {}
    except WeightsError as error:
        assert "a.ckpt" in str(error)
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert after.ru_utime - before.ru_utime < 10  # processor seconds
    assert after.ru_maxrss - before.ru_maxrss < 500_000  # kB


def test_one_storage_with_more_tensors_than_any_model_is_refused(tmp_path: Path) -> None:
    one = STORAGE + b"q\x000"
    rebuild = b"ctorch._utils\n_rebuild_tensor_v2\n(h\x00I0\n(I1\nt(I1\ntI00\nNtR"
    entries = b"".join(b"S'%d'\n" % index + rebuild + b"s" for index in range(MAX_TENSORS + 1))
    with pytest.raises(WeightsError, match="more than 20000 tensors"):
        open_checkpoint(write_pickle(tmp_path / "a.ckpt", one + b"}" + entries + b"."))


@pytest.mark.parametrize("old", [False, True])
def test_torchs_advice_to_execute_the_file_never_reaches_a_user(tmp_path: Path, old: bool) -> None:
    torch.save({"weight": torch.ones(2), "at": Path("/")}, tmp_path / "a.ckpt", _use_new_zipfile_serialization=not old)
    with pytest.raises(WeightsError, match="is not safetensors or a pickle of plain tensors") as raised:
        open_tensors(tmp_path / "a.ckpt")
    assert "weights_only" not in str(raised.value)
    assert str(raised.value).isprintable()
    assert ("pathlib." in str(raised.value)) != old  # what it contains


def test_names_in_a_file_reach_a_message_without_control_characters(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(1), "\x1b[31mred\n": torch.ones(1)}, tmp_path / "a.ckpt")
    assert format_keys(sorted(open_tensors(tmp_path / "a.ckpt"))) == "\ufffd[31mred, weight"
    assert len(format_keys(["x" * 100_000])) < 300


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_float8_tensors_equal_those_of_torch_load(tmp_path: Path, dtype: torch.dtype) -> None:
    content = {"a": torch.arange(6.0).to(dtype).view(2, 3), "b": torch.arange(8.0).to(dtype)[3:]}
    torch.save(content, tmp_path / "a.pt")
    for read in (open_tensors, open_checkpoint):
        tensors = read(tmp_path / "a.pt")
        assert all(torch.equal(tensors[key].float(), value.float()) for key, value in content.items())


def test_the_file_is_not_mapped_any_longer_than_its_tensors_exist(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(1000)}, tmp_path / "weights.pt")
    gc.disable()
    try:
        tensors = open_tensors(tmp_path / "weights.pt")
        assert str(tmp_path) in Path("/proc/self/maps").read_text()
        del tensors
        assert str(tmp_path) not in Path("/proc/self/maps").read_text()
    finally:
        gc.enable()
