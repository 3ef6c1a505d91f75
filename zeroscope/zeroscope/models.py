"""The four models: loaded by their files' own names, and kept where switching back is cheap.

A model that was used stays on the device while there is room beside the prediction at hand, then in pinned host
memory, and only then is it read anew.
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
from videokit.errors import WeightsError
from videokit.runtime import GB, host_memory
from videokit.weights.stable_diffusion import base_text_encoder_key, base_vae_key, empty_module
from videokit.weights.tensors import fill, shown, tensors_for

from zeroscope.converted import open_converted
from zeroscope.weights import CONFIGS, PARTS, TEXT_ENCODER, TOKENIZER, UNET, VAE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from videokit.runtime import Device
    from videokit.weights.store import WeightStore

logger = logging.getLogger("videokit")

# A table of the numbers 0 to 76, which transformers saved with the weights in 2023 and now makes itself.
SUPERFLUOUS = "text_model.embeddings.position_ids"


@dataclass(frozen=True)
class Model:
    """One model's modules, and what its files say of tokens and noise levels."""

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
        """The bytes that they take in pinned memory, where torch rounds each up to a power of two."""
        return sum(1 << (parameter.nbytes - 1).bit_length() for parameter in self._parameters())

    def is_on(self, device: torch.device) -> bool:
        """Tell whether every parameter is there; after a cancel in the middle of a move some are not."""
        return all(parameter.device.type == device.type for parameter in self._parameters())

    def to_device(self, device: torch.device) -> None:
        """Bring what is not there to the device."""
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
    """The models that were used, the latest last; on the device, or beside it, or no longer here."""

    def __init__(self, store: WeightStore, device: Device, *, on_device: int, on_host: int | None = None) -> None:
        """Keep at most so many bytes in each place; on the host, where that is another place, a quarter of it."""
        self.store = store
        self.device = device
        self.on_device = on_device
        self.on_host = on_host if on_host is not None else (host_memory() // 4 if device.device.type == "cuda" else 0)
        self.each = 0  # bytes of one model: the last that was loaded, and all have the same architecture
        self._kept: OrderedDict[str, Model] = OrderedDict()

    def get(self, name: str, room: int = 0) -> Model:
        """Return a model, ready on the device, where `room` bytes stay free beside what is kept there."""
        model = self._kept.pop(name, None)
        self._give_way(room + self.each)
        if model is None:
            model = self._load(name)
            self.each = model.nbytes
        self._kept[name] = model  # before the move, which a cancel may break off
        model.to_device(self.device.device)
        return model

    def has(self, name: str) -> bool:
        """Tell whether a model is kept, and need not be read."""
        return name in self._kept

    def forget(self) -> None:
        """Let go of all models."""
        self._kept.clear()

    def _give_way(self, needed: int) -> None:
        """Move what was used longest ago off the device till `needed` bytes are free; forget what fits nowhere."""
        device_left, host_left = self.on_device - needed, self.on_host
        for name in reversed(list(self._kept)):
            model = self._kept[name]
            if model.nbytes <= device_left and model.is_on(self.device.device):
                device_left -= model.nbytes
            elif model.pinned_nbytes <= host_left:
                host_left -= model.pinned_nbytes
                model.to_host()
            else:
                del self._kept[name]
                logger.info("models: %s, %.2f GB, is no longer kept", name, model.nbytes / GB)

    def _load(self, name: str) -> Model:
        paths = self.store.fetch(f"{name}/{file}" for file in (*CONFIGS, *TOKENIZER, *PARTS))
        unet, vae, text_encoder, scheduler = (paths[f"{name}/{config}"] for config in CONFIGS)
        tokenizer = {paths[f"{name}/{file}"].parent for file in TOKENIZER}
        if len(tokenizer) > 1:
            places = " and ".join(sorted(map(str, tokenizer)))
            raise WeightsError(f"the tokenizer's files of {name} lie in {places}; put all four into one of them")
        over_frames = self._filled(
            lambda: UNet3DConditionModel.from_config(UNet3DConditionModel.load_config(unet.parent)), f"{name}/{UNET}"
        )
        if self.device.device.type == "cpu":
            convolve_in_two_dimensions(over_frames)
        return Model(
            CLIPTokenizer.from_pretrained(tokenizer.pop()),
            self._filled(
                lambda: CLIPTextModel(CLIPTextConfig.from_pretrained(text_encoder.parent)), f"{name}/{TEXT_ENCODER}"
            ),
            over_frames,
            self._filled(lambda: AutoencoderKL.from_config(AutoencoderKL.load_config(vae.parent)), f"{name}/{VAE}"),
            json.loads(scheduler.read_text()),
        )

    def _filled(self, construct: Callable[[], Any], path: str) -> Any:
        """Construct a module and fill it with a file that has all its parameters; what more that has is logged."""
        tensors = open_converted(self.store, path)
        module = empty_module(construct, self.device)
        parameters = dict(module.named_parameters())
        key_of = _key_of(path, tensors)
        fill(parameters, tensors_for(parameters, tensors, key_of, self.store.get(path)))
        extra = sorted(tensors.keys() - set(map(key_of, parameters)) - {SUPERFLUOUS})
        if extra:
            logger.warning("weights: %s: passed over, the model has no such thing: %s", path, shown(extra))
        return module


def convolve_in_two_dimensions(unet: UNet3DConditionModel) -> None:
    """Let the convolutions over frames, whose kernels are (3, 1, 1), run as two-dimensional ones over (F, h w).

    They give the same; PyTorch's own take several times as long on a CPU.
    """
    for module in unet.modules():
        if isinstance(module, nn.Conv3d):
            module.forward = partial(_in_two_dimensions, module)  # type: ignore[method-assign]


def _in_two_dimensions(convolution: nn.Conv3d, x: torch.Tensor) -> torch.Tensor:
    """Return a convolution over frames of (B, C, F, h, w)."""
    flat = F.conv2d(x.flatten(3), convolution.weight.squeeze(-1), convolution.bias, 1, (1, 0))
    return flat.reshape(*flat.shape[:3], *x.shape[3:])


def _key_of(path: str, tensors: Mapping[str, torch.Tensor]) -> Callable[[str], str]:
    """Return how a file's key follows from the parameter's name; diffusers renamed the VAE's attention in May 2023."""
    if path.endswith(TEXT_ENCODER):
        return base_text_encoder_key
    return base_vae_key if any(key.endswith(".proj_attn.weight") for key in tensors) else str
