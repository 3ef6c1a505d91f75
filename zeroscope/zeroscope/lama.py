"""LaMa: the network that fills a part of a picture from the rest of it, and its weight file.

Suvorov et al., "Resolution-robust Large Mask Inpainting with Fourier Convolutions", arXiv 2109.07161, as
advimman/lama configs/training/big-lama.yaml builds its generator. A layer keeps local channels, on which it convolves,
and global ones, on which it convolves in frequency as well, so that each place sees the whole picture. What is masked
and why is in `watermark`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn
from videokit.errors import WeightsError
from videokit.weights.pickles import open_checkpoint
from videokit.weights.tensors import fill, shown, tensors_for

from zeroscope import weights
from zeroscope.converted import open_converted

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from videokit.weights.store import WeightStore

    # local channels, then global ones, of which there may be none
    Pair = tuple[torch.Tensor, torch.Tensor | None]

HALVINGS = 3
MULTIPLE = 2**HALVINGS  # of which the sides are multiples inside
COLOURS = 3
GENERATOR = "generator."  # before the generator's keys in a training checkpoint


@dataclass(frozen=True)
class Size:
    """How wide and deep the network is; the topology is always the same."""

    filters: int  # of the first layer, doubled with each halving of the picture
    blocks: int

    @property
    def local(self) -> int:
        """A quarter of the channels in the middle is local, the rest global."""
        return 2 * self.filters

    @property
    def inner(self) -> int:
        """All channels in the middle."""
        return self.filters << HALVINGS


PUBLISHED = Size(64, 18)


class Lama(nn.Module):
    """The generator; what it holds is named as in the published best.ckpt without `generator.`."""

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
            nn.Sigmoid(),
        )

    def forward(self, pictures: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Fill pictures, RGB (B, 3, H, W) in 0 to 1, where mask, (B, 1, H, W), is 1; where it is 0 they stay.

        Sides may be any from 2 * MULTIPLE on.
        """
        height, width = pictures.shape[2:]
        given = F.pad(known(pictures, mask), (0, -width % MULTIPLE, 0, -height % MULTIPLE), mode="replicate")
        filled: torch.Tensor = self.model(given)[..., :height, :width]
        return torch.where(mask > 0, filled, pictures)


def known(pictures: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return what the network is given of pictures, (B, 3, H, W), and their mask: (B, 4, H, W)."""
    return torch.cat([pictures * (1 - mask), mask], dim=1)


def load_lama(store: WeightStore, device: torch.device) -> Lama:
    """Load LaMa, in float32, from the published checkpoint, or from a file of its generator's tensors alone.

    Its size is read off the tensors. Raises WeightsError naming what is missing, misshapen or unexpected.
    """
    tensors = open_converted(store, weights.LAMA, generator_tensors)
    with torch.device("meta"):
        lama = Lama(_size(tensors))
    lama = lama.to_empty(device=device).requires_grad_(False).eval()
    state = lama.state_dict()
    path = store.get(weights.LAMA)
    found = tensors_for(state, tensors, str, path)
    if unexpected := tensors.keys() - state.keys():
        raise WeightsError(f"{path} has {shown(sorted(unexpected))}, which LaMa has no place for; use a file of LaMa's")
    fill(state, found)
    return lama


def generator_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Return the generator's tensors of a training checkpoint, named without `generator.`; of another file all."""
    tensors = open_checkpoint(path)
    generator = {key: tensor for key, tensor in tensors.items() if key.startswith(GENERATOR)}
    return {key.removeprefix(GENERATOR): tensor for key, tensor in (generator or tensors).items()}


def _size(tensors: Mapping[str, torch.Tensor]) -> Size:
    """Return the size that a file's tensors have; where it cannot be told, the published one."""
    first = tensors.get("model.1.ffc.convl2l.weight")
    blocks = {key.split(".")[1] for key in tensors if ".conv1.ffc." in key}
    filters = PUBLISHED.filters if first is None or not first.ndim else len(first)
    return Size(filters, len(blocks) or PUBLISHED.blocks)


class _Begin(nn.ReflectionPad2d):
    """Pads the picture and makes it the local channels."""

    def forward(self, picture: torch.Tensor) -> Pair:  # type: ignore[override]
        return super().forward(picture), None


class _Join(nn.Module):
    """Makes one picture of local and global channels."""

    def forward(self, pair: Pair) -> torch.Tensor:
        return torch.cat([part for part in pair if part is not None], dim=1)


class Block(nn.Module):
    """What two layers add to their input."""

    def __init__(self, local: int, rest: int) -> None:
        super().__init__()
        self.conv1 = Layer((local, rest), (local, rest))
        self.conv2 = Layer((local, rest), (local, rest))

    def forward(self, pair: Pair) -> Pair:
        local, rest = self.conv2(self.conv1(pair))
        assert pair[1] is not None
        return pair[0] + local, pair[1] + rest


class Layer(nn.Module):
    """A Fourier convolution of (local, global) channels, normed and rectified; the paper's figure 2."""

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
    """Each kind of channels from both: by convolution, but the global from the global by frequency."""

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
    """Convolves with every place at once, on half of the channels."""

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
    """A convolution of one point in frequency: each wave's cosine and sine part over all channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_layer = nn.Conv2d(2 * channels, 2 * channels, 1, bias=False)
        self.bn = nn.BatchNorm2d(2 * channels)

    def forward(self, channels: torch.Tensor) -> torch.Tensor:
        waves = torch.view_as_real(torch.fft.rfftn(channels, dim=(-2, -1), norm="ortho"))  # (B, C, H, W / 2 + 1, 2)
        parts = rearrange(waves, "b c h w part -> b (c part) h w")
        parts = F.relu(self.bn(self.conv_layer(parts)))
        waves = rearrange(parts, "b (c part) h w -> b c h w part", part=2).contiguous()
        made: torch.Tensor = torch.fft.irfftn(
            torch.view_as_complex(waves), channels.shape[-2:], dim=(-2, -1), norm="ortho"
        )
        return made
