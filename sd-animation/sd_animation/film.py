"""FILM: the network that makes the picture between two pictures, and its weight file.

Reda et al., "FILM: Frame Interpolation for Large Motion", arXiv 2202.04901, as google-research/frame-interpolation@
a0d73e5 models/film_net computes it. Pictures are halved six times; on every level features are extracted, and from
the coarsest level to the finest the motion between the two pictures is refined. Both are then warped to the wanted
time and fused. Which pictures are made between which, and when, is in `in_betweens`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn
from videokit.errors import WeightsError
from videokit.weights.tensors import fill, open_tensors, shown, tensors_for

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from videokit.runtime import Device

    # Pictures on every level, the finest first, (B, 3 + features, H / 2^level, W / 2^level): colours, then features
    Pyramid = list[torch.Tensor]

LEVELS = 7  # of a pyramid
FUSED_LEVELS = 5  # the finest, from which the picture is made
SPECIALIZED_LEVELS = 3  # the finest, which have weights of their own; the coarser ones share theirs
SUBLEVELS = 4  # on which features of one level's picture are seen
MULTIPLE = 2 ** (LEVELS - 1)  # of which a picture's sides must be multiples
COLOURS = 3


@dataclass(frozen=True)
class Widths:
    """How many channels the layers have; the topology is always the same."""

    filters: int  # of the features on the finest level
    flow_filters: tuple[int, int, int, int]  # of the flow predictors, the finest level's first, the shared one last

    def features(self, level: int) -> int:
        """Return how many features a level has."""
        return self.filters * ((1 << min(level + 1, SUBLEVELS)) - 1)

    def aligned(self, level: int) -> int:
        """Return how many channels a level has for the fusion: both pictures, their features and both flows."""
        return 2 * (COLOURS + self.features(level) + 2)

    def fused(self, level: int) -> int:
        """Return how many channels the fusion gives on a level."""
        return self.filters << min(level, SPECIALIZED_LEVELS)


PUBLISHED = Widths(64, (32, 64, 128, 256))  # google-research/frame-interpolation@a0d73e5 film_net-Style.gin


class Film(nn.Module):
    """FILM's three parts; pictures are RGB in 0 to 1, (B, 3, H, W), with sides that are multiples of MULTIPLE.

    Parameters are named as in the PyTorch port (dajes/frame-interpolation-pytorch@33bf477).
    """

    def __init__(self, widths: Widths = PUBLISHED) -> None:
        super().__init__()
        self.extract = _Extractor(widths)
        self.predict_flow = _FlowPredictor(widths)
        self.fuse = _Fusion(widths)

    def features(self, pictures: torch.Tensor) -> Pyramid:
        """Return the pictures' pyramid: all that is computed of a picture alone, whatever its neighbours."""
        pyramid: Pyramid = self.extract(pictures)
        return pyramid

    def between(self, start: Pyramid, stop: Pyramid, time: torch.Tensor) -> torch.Tensor:
        """Make the pictures at `time`, (B,) with 0 at `start` and 1 at `stop`; FILM was trained at 0.5 only."""
        # Motion is in pixels of its level, in float32: half precision cannot tell pixel 1023 from its neighbours'
        # fractions. The picture in between reads from the start along the way back, from the stop along the way on.
        way_on = self.predict_flow(start, stop)
        way_back = self.predict_flow(stop, start)
        time = time.to(start[0].device, torch.float32).view(-1, 1, 1, 1)
        aligned = []
        for level in range(FUSED_LEVELS):
            to_start, to_stop = time * way_back[level], (1 - time) * way_on[level]
            pictures = warp(start[level], to_start), warp(stop[level], to_stop)
            flows = torch.cat([to_start, to_stop], dim=1).to(pictures[0].dtype)
            aligned.append(torch.cat([*pictures, flows], dim=1))
        made: torch.Tensor = self.fuse(aligned).clamp(0, 1)
        return made


def warp(pictures: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
    """Return (B, C, H, W) whose pixel (x, y) is the pictures' at (x, y) + flow, (B, 2, H, W): dx, dy in pixels.

    Between pixels it is bilinear, beyond the border the border's pixel; computed in float32 whatever the pictures are.
    """
    height, width = pictures.shape[-2:]
    flow = flow.float()
    # clamped here because grid_sample's own padding by the border does not exist on Apple's GPUs
    x = (torch.arange(width, device=flow.device) + flow[:, 0]).clamp(0, width - 1)
    y = (torch.arange(height, device=flow.device)[:, None] + flow[:, 1]).clamp(0, height - 1)
    grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)
    return F.grid_sample(pictures.float(), grid, align_corners=False).to(pictures.dtype)


def load_film(path: Path, device: Device) -> Film:
    """Load FILM from the published safetensors file or a state dict of the PyTorch port, which differ in key names.

    How wide the layers are is read off the tensors. Raises WeightsError naming what is missing, misshapen or
    unexpected.
    """
    tensors = open_tensors(path)
    key_of = published_key if any(".conv." in key for key in tensors) else str
    with torch.device("meta"):
        film = Film(_widths(tensors, key_of))
    found = tensors_for(dict(film.named_parameters()), tensors, key_of, path)
    unexpected = tensors.keys() - set(map(key_of, found))
    if unexpected:
        raise WeightsError(f"{path} has {shown(sorted(unexpected))}, which FILM has no place for; use a file of FILM's")
    film = film.to(device.dtype).to_empty(device=device.device).requires_grad_(False).eval()
    fill(dict(film.named_parameters()), found)
    return film


def published_key(name: str) -> str:
    """Return what the published file (Comfy-Org/frame_interpolation) calls the parameter `name`."""
    return re.sub(r"\.0\.(weight|bias)$", r".conv.\1", name)


def _widths(tensors: Mapping[str, torch.Tensor], key_of: Callable[[str], str]) -> Widths:
    """Return the widths that a file's tensors have; where one is missing, the published width."""

    def outputs(layer: str, published: int) -> int:
        tensor = tensors.get(key_of(f"{layer}.0.weight"))
        return len(tensor) if tensor is not None and tensor.ndim else published

    filters = outputs("extract.extract_sublevels.convs.0.0", PUBLISHED.filters)
    predictors = [f"predict_flow._predictors.{SPECIALIZED_LEVELS - 1 - level}" for level in range(SPECIALIZED_LEVELS)]
    predictors.append("predict_flow._predictor")
    first, second, third, shared = (
        outputs(f"{predictor}._convs.0", published)
        for predictor, published in zip(predictors, PUBLISHED.flow_filters, strict=True)
    )
    return Widths(filters, (first, second, third, shared))


def _conv(inputs: int, outputs: int, size: int) -> nn.Sequential:
    """A convolution of an odd size that keeps the picture's, and the activation of nearly all of FILM's layers."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, size, padding=size // 2), nn.LeakyReLU(0.2))


class _Extractor(nn.Module):
    """The picture on every level with features that mean the same on every level."""

    def __init__(self, widths: Widths) -> None:
        super().__init__()
        inputs = COLOURS
        sublevels = nn.ModuleList()
        for sublevel in range(SUBLEVELS):
            outputs = widths.filters << sublevel
            sublevels.append(nn.Sequential(_conv(inputs, outputs, 3), _conv(outputs, outputs, 3)))
            inputs = outputs
        self.extract_sublevels = nn.ModuleDict({"convs": sublevels})

    def forward(self, picture: torch.Tensor) -> Pyramid:
        pictures = [picture]
        while len(pictures) < LEVELS:
            pictures.append(F.avg_pool2d(pictures[-1], 2))
        sublevels = list(self.extract_sublevels["convs"].children())
        features: list[list[torch.Tensor]] = [[] for _ in pictures]
        for level, hidden in enumerate(pictures):
            for sublevel, convs in enumerate(sublevels[: LEVELS - level]):
                hidden = convs(F.avg_pool2d(hidden, 2) if sublevel else hidden)
                features[level + sublevel].insert(0, hidden)
        return [torch.cat([picture, *parts], dim=1) for picture, parts in zip(pictures, features, strict=True)]


class _FlowEstimator(nn.Module):
    """What the motion of one level still lacks, from the features there."""

    def __init__(self, features: int, filters: int) -> None:
        super().__init__()
        self._convs = nn.Sequential(
            _conv(2 * features, filters, 3),
            _conv(filters, filters, 3),
            _conv(filters, filters, 3),
            _conv(filters, filters // 2, 1),
            nn.Sequential(nn.Conv2d(filters // 2, 2, 1)),
        )

    def forward(self, start: torch.Tensor, stop: torch.Tensor) -> torch.Tensor:
        residual: torch.Tensor = self._convs(torch.cat([start[:, COLOURS:], stop[:, COLOURS:]], dim=1))
        return residual.float()


class _FlowPredictor(nn.Module):
    """The motion from one picture to another, refined level by level."""

    def __init__(self, widths: Widths) -> None:
        super().__init__()
        *own, shared = (_FlowEstimator(widths.features(level), f) for level, f in enumerate(widths.flow_filters))
        self._predictor = shared
        self._predictors = nn.ModuleList(reversed(own))

    def forward(self, start: Pyramid, stop: Pyramid) -> list[torch.Tensor]:
        """Return the flow on the levels that are fused, the finest first: (B, 2, h, w) float32, dx and dy in pixels."""
        flow = self._predictor(start[-1], stop[-1])
        flows = [flow]
        estimators = [self._predictor] * (LEVELS - 1 - SPECIALIZED_LEVELS) + list(self._predictors)
        for level, estimator in zip(reversed(range(LEVELS - 1)), estimators, strict=True):
            # twice as many pixels, and so every motion twice as long
            flow = 2 * F.interpolate(flow, scale_factor=2, mode="bilinear")
            flow = flow + estimator(start[level], warp(stop[level], flow))
            flows.insert(0, flow)
        return flows[:FUSED_LEVELS]


class _Fusion(nn.Module):
    """The picture from what is aligned to its time, the coarsest level first."""

    def __init__(self, widths: Widths) -> None:
        super().__init__()
        self.convs = nn.ModuleList()
        inputs = widths.aligned(FUSED_LEVELS - 1)
        for level in reversed(range(FUSED_LEVELS - 1)):
            outputs = widths.fused(level)
            upsampler = nn.Sequential(nn.Conv2d(inputs, outputs, 2))
            mixer = _conv(widths.aligned(level) + outputs, outputs, 3)
            self.convs.append(nn.ModuleList([upsampler, mixer, _conv(outputs, outputs, 3)]))
            inputs = outputs
        self.output_conv = nn.Conv2d(inputs, COLOURS, 1)

    def forward(self, aligned: Pyramid) -> torch.Tensor:
        hidden = aligned[-1]
        for level, layers in zip(reversed(range(FUSED_LEVELS - 1)), self.convs, strict=True):
            upsampler, mixer, last = layers.children()
            hidden = F.interpolate(hidden, scale_factor=2, mode="nearest")
            hidden = upsampler(F.pad(hidden, (0, 1, 0, 1)))  # to the right and below, as TensorFlow pads
            hidden = last(mixer(torch.cat([aligned[level], hidden], dim=1)))
        picture: torch.Tensor = self.output_conv(hidden)
        return picture
