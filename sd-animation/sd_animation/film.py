"""FILM: the network that computes a frame between two frames, and its weight file.

Source: Reda et al., "FILM: Frame Interpolation for Large Motion", arXiv 2202.04901, as computed by
google-research/frame-interpolation@a0d73e5 models/film_net. Images are halved six times, and features are extracted on
every level. The motion between the two images is refined from the coarsest level to the finest. Both images are then
warped to the requested time and fused. `interpolation` calls FILM.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn
from videokit.weights.load import load_module
from videokit.weights.tensors import open_tensors

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from videokit.runtime import Device

    # Images on every level, the finest first, (B, 3 + features, H / 2^level, W / 2^level): colours, then features
    Pyramid = list[torch.Tensor]

LEVELS = 7  # of a pyramid
FUSED_LEVELS = 5  # the finest, which are fused to the result
SPECIALIZED_LEVELS = 3  # the finest, which have their own weights; the coarser levels share one set
SUBLEVELS = 4  # on which features of one level's image are extracted
MULTIPLE = 2 ** (LEVELS - 1)  # the sides of an image must be multiples of it
COLOURS = 3


@dataclass(frozen=True)
class Widths:
    """The numbers of channels of the layers; the topology is always the same."""

    filters: int  # of the features on the finest level
    flow_filters: tuple[int, int, int, int]  # of the flow predictors, the finest level's first, the shared one last

    def features(self, level: int) -> int:
        """Return the number of features of a level."""
        return self.filters * ((1 << min(level + 1, SUBLEVELS)) - 1)

    def aligned(self, level: int) -> int:
        """Return the number of input channels of the fusion on a level: both images, their features and both flows."""
        return 2 * (COLOURS + self.features(level) + 2)

    def fused(self, level: int) -> int:
        """Return the number of output channels of the fusion on a level."""
        return self.filters << min(level, SPECIALIZED_LEVELS)


PUBLISHED = Widths(64, (32, 64, 128, 256))  # google-research/frame-interpolation@a0d73e5 film_net-Style.gin


class Film(nn.Module):
    """FILM's three parts; images are RGB in 0 to 1, (B, 3, H, W), with sides that are multiples of MULTIPLE.

    Parameters have the names of the PyTorch port (dajes/frame-interpolation-pytorch@33bf477).
    """

    def __init__(self, widths: Widths = PUBLISHED) -> None:
        super().__init__()
        self.extract = _Extractor(widths)
        self.predict_flow = _FlowPredictor(widths)
        self.fuse = _Fusion(widths)

    def features(self, images: torch.Tensor) -> Pyramid:
        """Return the images' pyramid: everything that is computed from one image alone."""
        pyramid: Pyramid = self.extract(images)
        return pyramid

    def between(self, start: Pyramid, stop: Pyramid, time: torch.Tensor) -> torch.Tensor:
        """Return the images at `time`, (B,) with 0 at `start` and 1 at `stop`; FILM was trained at 0.5 only.

        A pixel that is NaN or infinite is NaN.
        """
        # Motion is in pixels of its level, in float32: half precision has no fractions of a pixel near 1023. The result
        # samples `start` along the backward flow and `stop` along the forward flow.
        forward_flow = self.predict_flow(start, stop)
        backward_flow = self.predict_flow(stop, start)
        time = time.to(start[0].device, torch.float32).view(-1, 1, 1, 1)
        aligned = []
        for level in range(FUSED_LEVELS):
            to_start, to_stop = time * backward_flow[level], (1 - time) * forward_flow[level]
            images = warp(start[level], to_start), warp(stop[level], to_stop)
            flows = torch.cat([to_start, to_stop], dim=1).to(images[0].dtype)
            aligned.append(torch.cat([*images, flows], dim=1))
        fused: torch.Tensor = self.fuse(aligned)
        return fused.clamp(0, 1).masked_fill(fused.isinf(), torch.nan)  # clamping would hide an infinity


def warp(images: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
    """Return (B, C, H, W) whose pixel (x, y) is the images' at (x, y) + flow, (B, 2, H, W): dx, dy in pixels.

    Sampling is bilinear, and uses the border pixel outside the image. It is computed in float32 for every dtype.
    """
    height, width = images.shape[-2:]
    flow = flow.float()
    # Clamped here, because grid_sample has no padding_mode="border" on Apple's GPUs.
    x = (torch.arange(width, device=flow.device) + flow[:, 0]).clamp(0, width - 1)
    y = (torch.arange(height, device=flow.device)[:, None] + flow[:, 1]).clamp(0, height - 1)
    grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)
    return F.grid_sample(images.float(), grid, align_corners=False).to(images.dtype)


def load_film(path: Path, device: Device) -> Film:
    """Return FILM, loaded from the published safetensors file or a state dict of the PyTorch port.

    The two differ in key names. The widths of the layers are read from the tensors. Raises WeightsError if a tensor is
    missing, unexpected, or has another shape.
    """
    tensors = open_tensors(path)
    widths = _widths(tensors)
    film: Film = load_module(lambda: Film(widths), device, tensors, film_keys, path, strict=True)
    return film


def film_keys(name: str) -> tuple[str, str]:
    """Return the keys of the parameter `name` in the published file (Comfy-Org/frame_interpolation) and the port's."""
    return re.sub(r"\.0\.(weight|bias)$", r".conv.\1", name), name


def _widths(tensors: Mapping[str, torch.Tensor]) -> Widths:
    """Return the widths of a file's tensors; a missing tensor counts with the published width."""

    def outputs(layer: str, published: int) -> int:
        tensor = next((tensors[key] for key in film_keys(f"{layer}.0.weight") if key in tensors), None)
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
    """Return a convolution of an odd size that keeps the image's size, and the activation of most of FILM's layers."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, size, padding=size // 2), nn.LeakyReLU(0.2))


class _Extractor(nn.Module):
    """The image on every level, with features by weights that all levels share."""

    def __init__(self, widths: Widths) -> None:
        super().__init__()
        inputs = COLOURS
        sublevels = nn.ModuleList()
        for sublevel in range(SUBLEVELS):
            outputs = widths.filters << sublevel
            sublevels.append(nn.Sequential(_conv(inputs, outputs, 3), _conv(outputs, outputs, 3)))
            inputs = outputs
        self.extract_sublevels = nn.ModuleDict({"convs": sublevels})

    def forward(self, image: torch.Tensor) -> Pyramid:
        images = [image]
        while len(images) < LEVELS:
            images.append(F.avg_pool2d(images[-1], 2))
        sublevels = list(self.extract_sublevels["convs"].children())
        features: list[list[torch.Tensor]] = [[] for _ in images]
        for level, hidden in enumerate(images):
            for sublevel, convs in enumerate(sublevels[: LEVELS - level]):
                hidden = convs(F.avg_pool2d(hidden, 2) if sublevel else hidden)
                features[level + sublevel].insert(0, hidden)
        return [torch.cat([image, *parts], dim=1) for image, parts in zip(images, features, strict=True)]


class _FlowEstimator(nn.Module):
    """The residual of one level's motion, from that level's features."""

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
    """The motion from one image to another, refined level by level."""

    def __init__(self, widths: Widths) -> None:
        super().__init__()
        *own, shared = (_FlowEstimator(widths.features(level), f) for level, f in enumerate(widths.flow_filters))
        self._predictor = shared
        self._predictors = nn.ModuleList(reversed(own))

    def forward(self, start: Pyramid, stop: Pyramid) -> list[torch.Tensor]:
        """Return the flow on the fused levels, the finest first: (B, 2, h, w) float32, dx and dy in pixels."""
        flow = self._predictor(start[-1], stop[-1])
        flows = [flow]
        estimators = [self._predictor] * (LEVELS - 1 - SPECIALIZED_LEVELS) + list(self._predictors)
        for level, estimator in zip(reversed(range(LEVELS - 1)), estimators, strict=True):
            # The next level has twice as many pixels a side, so every motion is twice as long.
            flow = 2 * F.interpolate(flow, scale_factor=2, mode="bilinear")
            flow = flow + estimator(start[level], warp(stop[level], flow))
            flows.insert(0, flow)
        return flows[:FUSED_LEVELS]


class _Fusion(nn.Module):
    """The result from the images aligned to its time, the coarsest level first."""

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
            hidden = upsampler(F.pad(hidden, (0, 1, 0, 1)))  # right and bottom, as TensorFlow pads
            hidden = last(mixer(torch.cat([aligned[level], hidden], dim=1)))
        image: torch.Tensor = self.output_conv(hidden)
        return image
