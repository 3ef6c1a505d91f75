"""The tensors of a training checkpoint: a pickle that also has objects of packages that are not installed.

No pickle is executed. A table has the names that tensors need. Every other name, such as a training framework's
callback or an attack, becomes an empty placeholder that accepts any arguments and stores nothing.
`videokit.weights.tensors` reads plain state dicts.
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

LOCAL_HEADER_SIZE = 30  # bytes; the last four are the lengths of the name and of the padding after it

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
    """Return the memory-mapped tensors by key of a training checkpoint written by `torch.save`.

    `open_tensors` reads any other file. Raises WeightsError for a damaged file.
    """
    if not zipfile.is_zipfile(path):
        return open_tensors(path)
    try:
        with zipfile.ZipFile(path) as archive:
            content = _CheckpointUnpickler(archive, path).load()
    except Exception as error:  # a damaged pickle fails in as many ways as there are opcodes
        raise WeightsError(
            f"{path} is not a checkpoint of torch.save, or it is damaged ({error}); fetch it again"
        ) from error
    return named_tensors(content, path)


class _Placeholder:
    """Replaces an object that is not a tensor: accepts any call and stores nothing."""

    def __new__(cls, *_: object, **__: object) -> _Placeholder:
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None: ...

    def __call__(self, *_: object, **__: object) -> _Placeholder:
        return self

    def __setstate__(self, state: object) -> None: ...

    def __setitem__(self, key: object, value: object) -> None: ...

    def append(self, value: object) -> None: ...

    def extend(self, values: object) -> None: ...

    def add(self, value: object) -> None: ...

    def update(self, values: object) -> None: ...


class _RebuildTensor:
    """Returns a tensor of a storage; has no attributes that a pickle could set."""

    __slots__ = ()

    def __call__(
        self, storage: torch.Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object
    ) -> torch.Tensor:
        return storage.as_strided(size, stride, storage.storage_offset() + offset)


class _RebuildParameter:
    """Returns the tensor of a parameter; has no attributes that a pickle could set."""

    __slots__ = ()

    def __call__(self, tensor: torch.Tensor, *_: object) -> torch.Tensor:
        return tensor


ALLOWED_NAMES: dict[tuple[str, str], object] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _RebuildTensor(),
    ("torch._utils", "_rebuild_parameter"): _RebuildParameter(),
    **{("torch", name): dtype for name, dtype in STORAGES.items()},
}


class _CheckpointUnpickler(pickle.Unpickler):
    """Reads the pickle in an archive of torch.save; storages are views of the memory-mapped file."""

    def __init__(self, archive: zipfile.ZipFile, path: Path) -> None:
        name = next((name for name in archive.namelist() if name.endswith("/data.pkl")), None)
        if name is None:
            raise ValueError("data.pkl is missing")
        super().__init__(io.BytesIO(archive.read(name)))
        self.archive = archive
        self.folder = name.removesuffix("data.pkl")
        self.bytes = torch.from_file(str(path), shared=False, size=path.stat().st_size, dtype=torch.uint8)

    def find_class(self, module: str, name: str) -> Any:
        return ALLOWED_NAMES.get((module, name), _Placeholder)

    def persistent_load(self, pid: Any) -> torch.Tensor:
        _, dtype, key, _, _ = pid
        record = self.archive.getinfo(f"{self.folder}data/{key}")
        if record.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{record.filename} is compressed")
        # Only the record's own header has the length of its padding (PKWARE APPNOTE 4.3.7).
        begin = record.header_offset + LOCAL_HEADER_SIZE
        name, extra = struct.unpack("<HH", self.bytes[begin - 4 : begin].numpy().tobytes())
        start = begin + name + extra
        values = self.bytes[start : start + record.file_size]
        if start % dtype.itemsize:
            values = values.clone()  # torch.save aligns storages; other writers may not
        return values.view(dtype)
