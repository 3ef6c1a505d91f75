"""The tensors of a training checkpoint, a pickle that holds objects of absent packages as well.

No pickle is executed. A name in a pickle is looked up in a table of what tensors are made of; every other name, be it
a training framework's callback or an attack, stands for an empty object that takes any arguments and keeps nothing.
Plain state dicts are read by `videokit.weights.tensors`.
"""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import torch
from videokit.errors import WeightsError
from videokit.weights.tensors import named_tensors, open_tensors

if TYPE_CHECKING:
    from pathlib import Path

LOCAL_HEADER = 30  # bytes, the last four of which are the lengths of the name and of the padding after it

STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


def open_checkpoint(path: Path) -> dict[str, torch.Tensor]:
    """Map the tensors of a training checkpoint by `torch.save`, whatever else it holds, and return them by key.

    Any other file is read as by `open_tensors`. Raises WeightsError for one that is damaged.
    """
    if not zipfile.is_zipfile(path):
        return open_tensors(path)
    try:
        with zipfile.ZipFile(path) as archive:
            content = _Reader(archive, path).load()
    except Exception as error:  # a damaged pickle fails in as many ways as there are opcodes
        fault = f"no checkpoint by torch.save, or it is damaged ({error})"
        raise WeightsError(f"{path} is {fault}; fetch it again") from error
    return named_tensors(content, path)


class _Nothing:
    """What stands for an object that is no tensor: it takes anything and keeps nothing."""

    def __new__(cls, *_: object, **__: object) -> _Nothing:
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None: ...

    def __call__(self, *_: object, **__: object) -> _Nothing:
        return self

    def __setstate__(self, state: object) -> None: ...

    def __setitem__(self, key: object, value: object) -> None: ...

    def append(self, value: object) -> None: ...

    def extend(self, values: object) -> None: ...

    def add(self, value: object) -> None: ...

    def update(self, values: object) -> None: ...


class _Tensor:
    """Makes a tensor of a storage; has no attributes that a pickle could set."""

    __slots__ = ()

    def __call__(
        self, storage: torch.Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object
    ) -> torch.Tensor:
        return storage.as_strided(size, stride, storage.storage_offset() + offset)


class _Parameter:
    """Makes a parameter's tensor; has no attributes that a pickle could set."""

    __slots__ = ()

    def __call__(self, tensor: torch.Tensor, *_: object) -> torch.Tensor:
        return tensor


ALLOWED: dict[tuple[str, str], object] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _Tensor(),
    ("torch._utils", "_rebuild_parameter"): _Parameter(),
    **{("torch", name): dtype for name, dtype in STORAGES.items()},
}


class _Reader(pickle.Unpickler):
    """Reads the pickle in an archive by torch.save; storages are parts of the mapped file."""

    def __init__(self, archive: zipfile.ZipFile, path: Path) -> None:
        name = next((name for name in archive.namelist() if name.endswith("/data.pkl")), None)
        if name is None:
            raise ValueError("it holds no data.pkl")
        super().__init__(io.BytesIO(archive.read(name)))
        self.archive = archive
        self.folder = name.removesuffix("data.pkl")
        self.bytes = torch.from_file(str(path), shared=False, size=path.stat().st_size, dtype=torch.uint8)

    def find_class(self, module: str, name: str) -> Any:
        return ALLOWED.get((module, name), _Nothing)

    def persistent_load(self, pid: Any) -> torch.Tensor:
        _, dtype, key, _, _ = pid
        record = self.archive.getinfo(f"{self.folder}data/{key}")
        if record.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{record.filename} is compressed")
        # only the record's own header says how long its padding is (PKWARE APPNOTE 4.3.7)
        begin = record.header_offset + LOCAL_HEADER
        name, extra = struct.unpack("<HH", self.bytes[begin - 4 : begin].numpy().tobytes())
        start = begin + name + extra
        values = self.bytes[start : start + record.file_size]
        if start % dtype.itemsize:
            values = values.clone()  # torch aligns them; others may not
        return values.view(dtype)
