"""The vectors in the file of a textual inversion: AUTOMATIC1111's and diffusers' layouts, read without executing them.

    .safetensors    one tensor: `emb_params` (AUTOMATIC1111), or `<token>` (diffusers)
    .pt, .bin       a pickle of torch.save with one tensor: {"string_to_param": {"*": tensor}} or {"<token>": tensor}

Sources: AUTOMATIC1111/stable-diffusion-webui modules/textual_inversion/textual_inversion.py, huggingface/diffusers
loaders/textual_inversion.py.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

import safetensors.torch
import torch
from torch import nn

from videokit.errors import WeightsError

if TYPE_CHECKING:
    from pathlib import Path

SUFFIXES = (".safetensors", ".pt", ".bin")
MAX_BYTES = 10_000_000  # of a file; 75 vectors of the widest text encoder take 0.4 MB in float32
MAX_VECTORS = 75  # positions in a window of CLIP
# Which models have a text encoder of this width, for messages
MODELS = {768: "Stable Diffusion 1", 1024: "Stable Diffusion 2", 1280: "Stable Diffusion XL"}


@dataclass(frozen=True)
class TextualInversion:
    """Vectors that replace the input embeddings of a name's tokens."""

    name: str
    vectors: torch.Tensor  # (n, D) float32
    sha256: str
    file: Path

    def describe(self) -> dict[str, object]:
        """Return what the provenance of a file states about this textual inversion."""
        return {"name": self.name, "vectors": len(self.vectors), "sha256": self.sha256}


def read_textual_inversion(path: Path, name: str, width: int) -> TextualInversion:
    """Return the textual inversion in a file, for a text encoder whose embeddings have `width` numbers.

    Raises WeightsError for a damaged file, another layout, another width, and values that float16 cannot hold.
    """
    content = _content(path)
    tensor = _tensor(path, content)
    vectors = _check(path, tensor[None] if tensor.dim() == 1 else tensor, width)
    return TextualInversion(name, vectors, hashlib.sha256(content).hexdigest(), path)


def _content(path: Path) -> bytes:
    """Return the bytes of a file of at most MAX_BYTES, which it may not exceed when it is unpacked either."""
    try:
        size = path.stat().st_size
        if size <= MAX_BYTES:
            content = path.read_bytes()
            if zipfile.is_zipfile(io.BytesIO(content)):
                size = sum(record.file_size for record in zipfile.ZipFile(io.BytesIO(content)).infolist())
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror}") from None
    except Exception:  # a damaged directory of a zip fails in many ways
        raise _unknown(path) from None
    if size > MAX_BYTES:
        raise WeightsError(
            f"{path} has {size} bytes; a textual inversion has at most {MAX_BYTES}. Move a checkpoint or a LoRA away"
        )
    return content


def _tensor(path: Path, content: bytes) -> torch.Tensor:
    """Return the only tensor of a file; raise WeightsError if there is none, or more than one."""
    try:
        if content[8:9] == b"{":  # the length of safetensors' header, then the header
            values: object = safetensors.torch.load(content)
        else:
            # files of the first training program have a ParameterDict, torch's own dictionary, in place of a dict
            with torch.serialization.safe_globals([nn.ParameterDict]):
                values = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception:  # a damaged file fails in as many ways as there are bytes
        raise _unknown(path) from None
    if isinstance(values, dict) and "string_to_param" in values:
        values = values["string_to_param"]
    if isinstance(values, nn.ParameterDict):
        values = values.__dict__.get("_parameters")
    if not isinstance(values, dict) or not values:
        raise _unknown(path)
    if values.keys() >= {"clip_l", "clip_g"}:
        raise WeightsError(f"{path} is a textual inversion for Stable Diffusion XL; use one for {MODELS[768]}")
    tensors = list(values.values())
    if len(tensors) > 1 and all(isinstance(tensor, torch.Tensor) for tensor in tensors):
        raise WeightsError(f"{path} has {len(tensors)} tensors; a textual inversion has one: give each its own file")
    if len(tensors) > 1 or not isinstance(tensors[0], torch.Tensor):
        raise _unknown(path)
    return tensors[0].detach()


def _check(path: Path, tensor: torch.Tensor, width: int) -> torch.Tensor:
    """Return a tensor as vectors, (n, width) float32; raise WeightsError for another shape or for invalid values."""
    # the shape is checked before any value is read: a pickle can claim a size that no memory holds
    if tensor.dim() != 2 or tensor.layout is not torch.strided or tensor.is_meta or not tensor.is_floating_point():
        raise _unknown(path)
    count, actual = tensor.shape
    if actual != width:
        owner = f" ({MODELS[actual]})" if actual in MODELS else ""
        raise WeightsError(
            f"{path} has vectors of {actual} numbers{owner}; this text encoder's have {width}. Use a file for "
            f"{MODELS.get(width, 'these weights')}, or remove {path.stem} from the prompt"
        )
    if not 1 <= count <= MAX_VECTORS:
        raise WeightsError(f"{path} has {count} vectors; a textual inversion has 1 to {MAX_VECTORS}")
    if not tensor.half().isfinite().all():
        raise WeightsError(f"{path} has values that are not finite in float16; use another file")
    return tensor.float()


def _unknown(path: Path) -> WeightsError:
    return WeightsError(
        f"{path} is not a textual inversion, or it is damaged. It needs one tensor, in AUTOMATIC1111's layout "
        "(string_to_param, emb_params) or that of diffusers (<token>)"
    )
