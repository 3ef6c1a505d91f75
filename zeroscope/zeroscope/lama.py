"""LaMa: the network that fills a masked part of an image, and its weight file.

Source: Suvorov et al., "Resolution-robust Large Mask Inpainting with Fourier Convolutions", arXiv 2109.07161; the
generator of advimman/lama configs/training/big-lama.yaml. A layer has local channels with ordinary convolutions, and
global channels with convolutions in the frequency domain, whose receptive field is the whole image. `watermark` calls
LaMa.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn
from videokit.runtime import Device
from videokit.weights.keys import same_key
from videokit.weights.load import load_module
from videokit.weights.tensors import open_checkpoint

from zeroscope import weights
from zeroscope.conversion import open_converted

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from videokit.weights.store import WeightStore

    # local channels, then global ones, of which there may be none
    Pair = tuple[torch.Tensor, torch.Tensor | None]

HALVINGS = 3
MULTIPLE = 2**HALVINGS  # the sides are padded to multiples of it
COLOURS = 3
GENERATOR = "generator."  # before the generator's keys in a training checkpoint


@dataclass(frozen=True)
class Size:
    """The width and depth of the network; the topology is always the same."""

    filters: int  # of the first layer, doubled at each halving of the image
    blocks: int

    @property
    def local(self) -> int:
        """The local channels in the middle, a quarter of all."""
        return 2 * self.filters

    @property
    def inner(self) -> int:
        """All channels in the middle, local and global."""
        return self.filters << HALVINGS


PUBLISHED = Size(64, 18)


class Lama(nn.Module):
    """The generator; its parameters have the names of the published best.ckpt without `generator.`."""

    def __init__(self, size: Size = PUBLISHED) -> None:
        super().__init__()
        filters, rest = size.filters, size.inner - size.local
        ends: list[nn.Module] = []
        for channels in (filters << halving for halving in reversed(range(HALVINGS))):
            up = nn.ConvTranspose2d(2 * channels, channels, 3, stride=2, padding=1, output_padding=1)
            ends += [up, nn.BatchNorm2d(channels), nn.ReLU()]
        self.model = nn.Sequential(
            _Begin(3),
            Layer((COLOURS + 1, 0), (filters, 0), 7, padding=0),
            Layer((filters, 0), (2 * filters, 0), stride=2),
            Layer((2 * filters, 0), (4 * filters, 0), stride=2),
            Layer((4 * filters, 0), (size.local, rest), stride=2),
            *(Block(size.local, rest) for _ in range(size.blocks)),
            _Join(),
            *ends,
            nn.ReflectionPad2d(3),
            nn.Conv2d(filters, COLOURS, 7),
            _Colours(),
        )

    def forward(self, images: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return images, RGB (B, 3, H, W) in 0 to 1, filled where mask, (B, 1, H, W), is 1 and unchanged where it is 0.

        Sides are at least 2 * MULTIPLE.
        """
        height, width = images.shape[2:]
        padding = (0, -width % MULTIPLE, 0, -height % MULTIPLE)
        filled: torch.Tensor = self.model(F.pad(masked_input(images, mask), padding, mode="replicate"))
        return torch.where(mask > 0, filled[..., :height, :width], images)


def masked_input(images: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the network's input, (B, 4, H, W), from images, (B, 3, H, W), and their mask, (B, 1, H, W)."""
    return torch.cat([images * (1 - mask), mask], dim=1)


def load_lama(store: WeightStore, device: torch.device) -> Lama:
    """Return LaMa in float32, loaded from the published checkpoint, or from a file of its generator's tensors.

    The size is read from the tensors. Raises WeightsError if a tensor is missing, unexpected, or has another shape.
    """
    tensors = open_converted(store, weights.LAMA, generator_tensors)
    size, float32 = _size(tensors), Device(device, torch.float32)
    lama: Lama = load_module(lambda: Lama(size), float32, tensors, same_key, store.get(weights.LAMA), strict=True)
    return lama


def generator_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Return the generator's tensors of a training checkpoint, without `generator.`, or all tensors of another file."""
    tensors = open_checkpoint(path)
    generator = {key: tensor for key, tensor in tensors.items() if key.startswith(GENERATOR)}
    return {key.removeprefix(GENERATOR): tensor for key, tensor in (generator or tensors).items()}


def _size(tensors: Mapping[str, torch.Tensor]) -> Size:
    """Return the size of a file's tensors; what cannot be read counts as published."""
    first = tensors.get("model.1.ffc.convl2l.weight")
    blocks = {key.split(".")[1] for key in tensors if ".conv1.ffc." in key}
    filters = PUBLISHED.filters if first is None or not first.ndim else len(first)
    return Size(filters, len(blocks) or PUBLISHED.blocks)


class _Colours(nn.Sigmoid):
    """Returns colours in 0 to 1, and NaN for an infinity, which a sigmoid would hide."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return super().forward(values).masked_fill(values.isinf(), torch.nan)


class _Begin(nn.ReflectionPad2d):
    """Returns the padded image as the local channels."""

    def forward(self, image: torch.Tensor) -> Pair:  # type: ignore[override]
        return super().forward(image), None


class _Join(nn.Module):
    """Returns local and global channels as one tensor."""

    def forward(self, pair: Pair) -> torch.Tensor:
        return torch.cat([part for part in pair if part is not None], dim=1)


class Block(nn.Module):
    """Two layers with a residual connection."""

    def __init__(self, local: int, rest: int) -> None:
        super().__init__()
        self.conv1 = Layer((local, rest), (local, rest))
        self.conv2 = Layer((local, rest), (local, rest))

    def forward(self, pair: Pair) -> Pair:
        local, rest = self.conv2(self.conv1(pair))
        assert pair[1] is not None
        return pair[0] + local, pair[1] + rest


class Layer(nn.Module):
    """A Fourier convolution of (local, global) channels, with norm and ReLU; figure 2 of the paper."""

    def __init__(
        self, inputs: tuple[int, int], outputs: tuple[int, int], kernel: int = 3, *, stride: int = 1, padding: int = 1
    ) -> None:
        super().__init__()
        self.ffc = _FourierConvolution(inputs, outputs, kernel, stride, padding)
        self.bn_l = nn.BatchNorm2d(outputs[0])
        self.bn_g = nn.BatchNorm2d(outputs[1]) if outputs[1] else None

    def forward(self, pair: Pair) -> Pair:
        local, rest = self.ffc(pair)
        return F.relu(self.bn_l(local)), None if self.bn_g is None else F.relu(self.bn_g(rest))


class _FourierConvolution(nn.Module):
    """Convolutions between local and global channels; global to global is a convolution in the frequency domain."""

    def __init__(
        self, inputs: tuple[int, int], outputs: tuple[int, int], kernel: int, stride: int, padding: int
    ) -> None:
        super().__init__()

        def conv(i: int, o: int) -> nn.Conv2d | None:
            if not i or not o:
                return None
            return nn.Conv2d(i, o, kernel, stride, padding, bias=False, padding_mode="reflect")

        self.convl2l = conv(inputs[0], outputs[0])
        self.convl2g = conv(inputs[0], outputs[1])
        self.convg2l = conv(inputs[1], outputs[0])
        self.convg2g = _Spectral(inputs[1], outputs[1]) if inputs[1] and outputs[1] else None

    def forward(self, pair: Pair) -> Pair:
        local, rest = pair
        to_local = _sum((self.convl2l, local), (self.convg2l, rest))
        assert to_local is not None
        return to_local, _sum((self.convl2g, local), (self.convg2g, rest))


def _sum(*parts: tuple[nn.Module | None, torch.Tensor | None]) -> torch.Tensor | None:
    results = [module(channels) for module, channels in parts if module is not None]
    return sum(results[1:], results[0]) if results else None


class _Spectral(nn.Module):
    """A convolution in the frequency domain, on half of the channels."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        half = outputs // 2
        self.conv1 = nn.Sequential(nn.Conv2d(inputs, half, 1, bias=False), nn.BatchNorm2d(half), nn.ReLU())
        self.fu = _FourierUnit(half)
        self.conv2 = nn.Conv2d(half, outputs, 1, bias=False)

    def forward(self, rest: torch.Tensor) -> torch.Tensor:
        narrow = self.conv1(rest)
        result: torch.Tensor = self.conv2(narrow + self.fu(narrow))
        return result


class _FourierUnit(nn.Module):
    """A 1x1 convolution in the frequency domain, over the real and imaginary parts of all channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_layer = nn.Conv2d(2 * channels, 2 * channels, 1, bias=False)
        self.bn = nn.BatchNorm2d(2 * channels)

    def forward(self, channels: torch.Tensor) -> torch.Tensor:
        waves = torch.view_as_real(torch.fft.rfftn(channels, dim=(-2, -1), norm="ortho"))  # (B, C, H, W / 2 + 1, 2)
        parts = rearrange(waves, "b c h w part -> b (c part) h w")
        parts = F.relu(self.bn(self.conv_layer(parts)))
        waves = rearrange(parts, "b (c part) h w -> b c h w part", part=2).contiguous()
        result: torch.Tensor = torch.fft.irfftn(
            torch.view_as_complex(waves), channels.shape[-2:], dim=(-2, -1), norm="ortho"
        )
        return result
