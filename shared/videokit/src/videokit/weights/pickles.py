"""The tensors in an archive of torch.save: a zip archive with one pickle, and one record for each storage.

No pickle is executed. A pickle can build dictionaries, lists, numbers, texts and tensors. Every other object, such as a
training framework's callback or an attack, is refused, or becomes an empty placeholder that accepts any call and stores
nothing.
"""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from videokit.weights.formats import MAX_TENSORS

if TYPE_CHECKING:
    from collections.abc import Callable
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
# types whose storage is one of bytes
EIGHT_BITS = {"float8_e4m3fn": torch.float8_e4m3fn, "float8_e5m2": torch.float8_e5m2}
# what torch.save writes next to tensors, and torch.load accepts (torch._weights_only_unpickler): becomes placeholders
HARMLESS = {
    ("collections", "Counter"),
    ("collections", "defaultdict"),
    ("torch", "Size"),
    ("torch", "device"),
    ("_codecs", "encode"),
    *((module, name) for module in ("builtins", "__builtin__") for name in ("set", "complex", "bytearray", "dict")),
}


def read_archive(path: Path, *, strict: bool) -> object:
    """Return what the pickle in an archive of torch.save describes; tensors are views of the memory-mapped file.

    If `strict`, any other object than a plain tensor raises pickle.UnpicklingError, which names it. A damaged pickle
    raises any Exception.
    """
    with zipfile.ZipFile(path) as archive:
        unpickler = _Unpickler(archive, path, strict=strict)
        try:
            return unpickler.load()
        finally:
            # Its memo contains a method of itself, so the file would stay mapped until the garbage collector runs.
            unpickler.memo.clear()


class _Placeholder:
    """Replaces an object that is not a tensor: accepts any call and stores nothing."""

    def __new__(cls, *_: object, **__: object) -> _Placeholder:
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None: ...

    def __call__(self, *_: object, **__: object) -> _Placeholder:
        return self

    def __setitem__(self, key: object, value: object) -> None: ...

    def append(self, value: object) -> None: ...

    def extend(self, values: object) -> None: ...

    def add(self, value: object) -> None: ...


class _Dictionary(dict[object, object]):
    """A dictionary whose keys are texts and numbers; entries with other keys are dropped."""

    def __init__(self, entries: object = ()) -> None:
        super().__init__()
        for key, value in entries if isinstance(entries, list) else ():
            self[key] = value

    def __setitem__(self, key: object, value: object) -> None:
        if isinstance(key, (str, int)):
            super().__setitem__(key, value)


class _Unpickler(pickle._Unpickler):
    """Python's own implementation, because that in C allocates gigabytes if a pickle of ten bytes asks for them."""

    memo: dict[int, object]
    stack: list[Any]
    append: Callable[[object], None]
    pop_mark: Callable[[], list[Any]]

    def __init__(self, archive: zipfile.ZipFile, path: Path, *, strict: bool) -> None:
        name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
        super().__init__(io.BytesIO(archive.read(name)))
        self.archive = archive
        self.strict = strict
        self.tensors = 0
        self.folder = name.removesuffix("data.pkl")
        self.bytes = torch.from_file(str(path), shared=False, size=path.stat().st_size, dtype=torch.uint8)

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return _Dictionary
        if module == "torch._utils" and name in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3"):
            return self._rebuild_tensor
        if module == "torch._utils" and name in ("_rebuild_parameter", "_rebuild_parameter_with_state"):
            return _rebuild_parameter
        if module == "torch" and (dtype := STORAGES.get(name) or EIGHT_BITS.get(name)):
            return dtype
        if (module, name) == ("torch.storage", "UntypedStorage"):
            return torch.uint8
        if self.strict and (module, name) not in HARMLESS:
            raise pickle.UnpicklingError(f"it contains {module}.{name}")
        return _Placeholder

    def persistent_load(self, pid: Any) -> torch.Tensor:
        _, dtype, key, _, _ = pid
        if not isinstance(dtype, torch.dtype):
            raise ValueError("a storage has no type")
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

    def _rebuild_tensor(
        self, storage: torch.Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *rest: object
    ) -> torch.Tensor:
        self.tensors += 1
        if self.tensors > MAX_TENSORS:
            raise pickle.UnpicklingError(f"it has more than {MAX_TENSORS} tensors, and no model has as many")
        # Version 3 has a storage of bytes, and the type as its last argument. Offsets count values of that type.
        if rest and isinstance(rest[-1], torch.dtype):
            storage = storage.view(rest[-1])
        return storage.as_strided(size, stride, storage.storage_offset() + offset)

    def _ignore_state(self) -> None:
        """Drop the attributes of an object, so that a pickle cannot change one."""
        self.stack.pop()

    def _load_dict(self) -> None:
        items = self.pop_mark()
        dictionary = _Dictionary()
        for key, value in zip(items[::2], items[1::2], strict=True):
            dictionary[key] = value
        self.append(dictionary)

    # dictionaries and sets without hashes of other keys, which may never end: a tuple's has those of all its parts
    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        **pickle._Unpickler.dispatch,
        pickle.BUILD[0]: _ignore_state,
        pickle.DICT[0]: _load_dict,
        pickle.EMPTY_DICT[0]: lambda self: self.append(_Dictionary()),
        pickle.EMPTY_SET[0]: lambda self: self.append(_Placeholder()),
        pickle.FROZENSET[0]: lambda self: self.append(_Placeholder(self.pop_mark())),
    }


def _rebuild_parameter(tensor: torch.Tensor, *_: object) -> torch.Tensor:
    """Return the tensor of a parameter."""
    return tensor
