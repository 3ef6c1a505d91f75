"""When a pickle of tensors is converted to safetensors, and that only the cache is written to."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from videokit.weights.store import WeightStore
from videokit.weights.table import WeightFile
from videokit.weights.tensors import open_tensors
from zeroscope.conversion import open_converted

PATH = "part/weights.bin"
COPY = f"converted/{PATH}.safetensors"


class Reader:
    """Reads pickles and counts the calls."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, path: Path) -> dict[str, torch.Tensor]:
        self.count += 1
        return open_tensors(path)


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    values = torch.arange(24.0).reshape(4, 6)
    return {
        "a": values,
        "half": values.half() / 7,
        "gaps": values.T[::2],
        "nan": torch.tensor(float("nan")),
        "i": torch.arange(3),
    }


@pytest.fixture
def source(tensors: dict[str, torch.Tensor], tmp_path: Path) -> Path:
    file = tmp_path / "given" / PATH
    file.parent.mkdir(parents=True)
    torch.save({key: tensor.clone(memory_format=torch.preserve_format) for key, tensor in tensors.items()}, file)
    return file


def store_at(tmp_path: Path, cache: Path | None) -> WeightStore:
    return WeightStore([WeightFile(PATH, None, "CC0")], directories=[tmp_path / "given"], cache=cache)


def assert_equal(result: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert result.keys() == expected.keys()
    for key, tensor in expected.items():
        assert result[key].dtype == tensor.dtype
        torch.testing.assert_close(result[key], tensor, rtol=0, atol=0, equal_nan=True)


def test_a_pickle_is_converted_once_to_a_copy_with_the_same_tensors(
    source: Path, tensors: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    store, read = store_at(tmp_path, tmp_path / "cache"), Reader()
    for _ in range(3):
        assert_equal(open_converted(store, PATH, read), tensors)
    assert read.count == 1
    assert_equal(load_file(tmp_path / "cache" / COPY), tensors)
    assert [path for path in (tmp_path / "given").rglob("*") if path.is_file()] == [source]


def test_a_changed_file_is_converted_again(source: Path, tmp_path: Path) -> None:
    store, read = store_at(tmp_path, tmp_path / "cache"), Reader()
    open_converted(store, PATH, read)
    torch.save({"other": torch.ones(2)}, source)
    for _ in range(2):
        assert_equal(open_converted(store, PATH, read), {"other": torch.ones(2)})
    assert read.count == 2


@pytest.mark.parametrize("damage", [b"", b"\x00" * 50, None])
def test_a_damaged_copy_is_replaced(
    source: Path, tensors: dict[str, torch.Tensor], tmp_path: Path, damage: bytes | None
) -> None:
    store, copy = store_at(tmp_path, tmp_path / "cache"), tmp_path / "cache" / COPY
    open_converted(store, PATH)
    copy.write_bytes(copy.read_bytes()[:-10] if damage is None else damage)
    assert_equal(open_converted(store, PATH), tensors)
    assert_equal(load_file(copy), tensors)


def test_without_a_writable_cache_the_file_is_read_each_time_and_a_warning_is_logged(
    source: Path, tensors: dict[str, torch.Tensor], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = tmp_path / "cache"
    cache.write_text("a file instead of a directory")
    store, read = store_at(tmp_path, cache), Reader()
    for _ in range(2):
        with caplog.at_level(logging.INFO, "videokit"):
            assert_equal(open_converted(store, PATH, read), tensors)
    assert read.count == 2
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 2
    assert warnings[0].startswith(f"weights: {PATH}: not converted, so it is read again at every start: ")


def test_without_a_cache_the_file_is_read(source: Path, tensors: dict[str, torch.Tensor], tmp_path: Path) -> None:
    assert_equal(open_converted(store_at(tmp_path, None), PATH), tensors)


def test_a_copy_that_differs_from_the_file_is_removed(
    source: Path, tensors: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zeroscope.conversion.save_file", lambda _, path, __: Path(path).write_bytes(b"incomplete"))
    assert_equal(open_converted(store_at(tmp_path, tmp_path / "cache"), PATH), tensors)
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


def test_two_simultaneous_conversions_leave_one_complete_copy(
    source: Path, tensors: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    both_have_read = threading.Barrier(2)

    def read(path: Path) -> dict[str, torch.Tensor]:
        tensors = open_tensors(path)
        both_have_read.wait()
        return tensors

    results: list[dict[str, torch.Tensor]] = []

    def convert() -> None:
        results.append(open_converted(store_at(tmp_path, tmp_path / "cache"), PATH, read))

    threads = [threading.Thread(target=convert) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        assert_equal(result, tensors)
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == [tmp_path / "cache" / COPY]
