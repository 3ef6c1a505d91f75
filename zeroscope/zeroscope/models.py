"""The four models: loaded from their files, and cached on the device and in host memory.

A model that was used stays on the device while there is room next to the current prediction, then in pinned host
memory. After that it is loaded from its files again.
"""

from __future__ import annotations

import json
import logging
from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet3DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from videokit.runtime import GB, host_memory
from videokit.weights.keys import same_key, text_encoder_keys, vae_keys
from videokit.weights.kinds import TEXT_ENCODER_FILE, UNET_3D, VAE_FILE
from videokit.weights.load import load_module
from videokit.weights.store import common_folder

from zeroscope.attention import split_temporal_attention
from zeroscope.conversion import open_converted
from zeroscope.weights import CONFIGS, PARTS, TEXT_ENCODER, TOKENIZER, UNET, VAE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from videokit.runtime import Device
    from videokit.weights.keys import Keys
    from videokit.weights.kinds import Kind
    from videokit.weights.store import WeightStore

logger = logging.getLogger("videokit")

# the configuration, the keys and the kind of each part's file
LAYOUTS: dict[str, tuple[str, Keys, Kind]] = {
    UNET: (CONFIGS[0], same_key, UNET_3D),
    VAE: (CONFIGS[1], vae_keys, VAE_FILE),
    TEXT_ENCODER: (CONFIGS[2], text_encoder_keys, TEXT_ENCODER_FILE),
}


@dataclass(frozen=True)
class Model:
    """The modules of one model, and its tokenizer and scheduler configuration."""

    tokenizer: CLIPTokenizer
    text_encoder: CLIPTextModel
    unet: UNet3DConditionModel
    vae: AutoencoderKL
    scheduler: Mapping[str, object]  # scheduler_config.json

    @property
    def nbytes(self) -> int:
        """The bytes of all parameters."""
        return sum(parameter.nbytes for parameter in self._parameters())

    @property
    def pinned_nbytes(self) -> int:
        """The bytes of all parameters in pinned memory, where torch rounds each up to a power of two."""
        return sum(1 << (parameter.nbytes - 1).bit_length() for parameter in self._parameters())

    def is_on(self, device: torch.device) -> bool:
        """Return whether all parameters are on the device; a cancelled move leaves some of them elsewhere."""
        return all(parameter.device.type == device.type for parameter in self._parameters())

    def to_device(self, device: torch.device) -> None:
        """Move the parameters that are elsewhere to the device."""
        for parameter in self._parameters():
            parameter.data = parameter.data.to(device, non_blocking=True)

    def to_host(self) -> None:
        """Move the parameters into pinned host memory, from which they return at the full speed of the bus."""
        for parameter in self._parameters():
            if parameter.device.type != "cpu":
                host = torch.empty(parameter.shape, dtype=parameter.dtype, pin_memory=True)
                parameter.data = host.copy_(parameter.data)

    def _parameters(self) -> list[nn.Parameter]:
        return [p for module in (self.text_encoder, self.unet, self.vae) for p in module.parameters()]


class Models:
    """A least-recently-used cache of models, on the device and in host memory."""

    def __init__(self, store: WeightStore, device: Device, *, on_device: int, on_host: int | None = None) -> None:
        """Cache at most `on_device` and `on_host` bytes; the default of `on_host` is a quarter of the host for CUDA."""
        self.store = store
        self.device = device
        self.on_device = on_device
        self.on_host = on_host if on_host is not None else (host_memory() // 4 if device.device.type == "cuda" else 0)
        self.model_nbytes = 0  # of the model that was loaded last; all have the same architecture
        self._cache: OrderedDict[str, Model] = OrderedDict()

    def get(self, name: str, room: int = 0) -> Model:
        """Return a model on the device, and leave `room` bytes free there next to the cached models."""
        model = self._cache.pop(name, None)
        self._make_room(room + self.model_nbytes)
        if model is None:
            model = self._load(name)
            self.model_nbytes = model.nbytes
        self._cache[name] = model  # before the move, which a cancel may interrupt
        model.to_device(self.device.device)
        return model

    def has(self, name: str) -> bool:
        """Return whether a model is cached."""
        return name in self._cache

    def unload(self) -> None:
        """Remove all models from the cache."""
        self._cache.clear()

    def _make_room(self, nbytes: int) -> None:
        """Move the least recently used models off the device until `nbytes` are free, or out of the cache."""
        device_left, host_left = self.on_device - nbytes, self.on_host
        for name in reversed(list(self._cache)):
            model = self._cache[name]
            if model.nbytes <= device_left and model.is_on(self.device.device):
                device_left -= model.nbytes
            elif model.pinned_nbytes <= host_left:
                host_left -= model.pinned_nbytes
                model.to_host()
            else:
                del self._cache[name]
                logger.info("models: removed %s, %.2f GB, from the cache", name, model.nbytes / GB)

    def _load(self, name: str) -> Model:
        paths = self.store.fetch(f"{name}/{file}" for file in (*CONFIGS, *TOKENIZER, *PARTS))
        unet, vae, text_encoder, scheduler = (paths[f"{name}/{config}"] for config in CONFIGS)
        tokenizer = common_folder(paths[f"{name}/{file}"] for file in TOKENIZER)

        def load(construct: Callable[[], Any], part: str) -> Any:
            path, (config, keys_of, kind) = f"{name}/{part}", LAYOUTS[part]
            self.store.refuse_mixture(f"{name}/{config}", path)
            tensors = open_converted(self.store, path)
            return load_module(construct, self.device, tensors, keys_of, self.store.get(path), kind=kind)

        model = Model(
            CLIPTokenizer.from_pretrained(tokenizer),
            load(lambda: CLIPTextModel(CLIPTextConfig.from_pretrained(text_encoder.parent)), TEXT_ENCODER),
            load(
                lambda: UNet3DConditionModel.from_config(UNet3DConditionModel.load_config(unet.parent)),
                UNET,
            ),
            load(lambda: AutoencoderKL.from_config(AutoencoderKL.load_config(vae.parent)), VAE),
            json.loads(scheduler.read_text()),
        )
        split_temporal_attention(model.unet)
        if self.device.device.type == "cpu":
            use_2d_convolutions(model.unet)
        return model


def use_2d_convolutions(unet: UNet3DConditionModel) -> None:
    """Compute the convolutions over frames, whose kernels are (3, 1, 1), as 2D convolutions over (F, h w).

    The results are equal. PyTorch's 3D convolutions take several times as long on a CPU.
    """
    for module in unet.modules():
        if isinstance(module, nn.Conv3d):
            module.forward = partial(_convolve_2d, module)  # type: ignore[method-assign]


def _convolve_2d(convolution: nn.Conv3d, x: torch.Tensor) -> torch.Tensor:
    """Return a convolution over the frames of (B, C, F, h, w)."""
    flat = F.conv2d(x.flatten(3), convolution.weight.squeeze(-1), convolution.bias, 1, (1, 0))
    return flat.reshape(*flat.shape[:3], *x.shape[3:])
