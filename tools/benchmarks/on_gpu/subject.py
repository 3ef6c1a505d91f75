"""What is measured: a network with inputs of one size, and a model on a device with random weights."""

from __future__ import annotations

import hashlib
import importlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from tree import package_of
from videokit.prediction import ENCODERS
from videokit.runtime import Device, Stages
from videokit.weights.load import empty_module
from videokit.weights.store import WeightStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import nn
    from videokit.video.frames import Frame

    Figures = dict[str, float | str]  # by unit, or by a statement: True or False
    Row = tuple[str, Figures]  # what was measured


@dataclass(frozen=True)
class Network:
    """A network, and how it is called with random tensors of some shapes."""

    name: str
    construct: Callable[[], nn.Module]
    run: Callable[..., object]
    shapes: Sequence[tuple[int, ...]]
    calls: int = 0  # in a prediction with the default inputs
    predicted_bytes: int | None = None  # the peak in float16 by the product's own estimate
    float32: bool = False  # in every precision

    def build(self, device: Device) -> tuple[nn.Module, list[torch.Tensor]]:
        """Return the module with random parameters, and random inputs."""
        device = Device(device.device, torch.float32 if self.float32 else device.dtype)
        module = empty_module(self.construct, device)
        for name, parameter in module.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, parameter[0].numel() ** -0.5)  # preserves the variance
            else:
                parameter.fill_(name.endswith("weight"))
        return module, [torch.rand(shape, device=device.device, dtype=device.dtype) for shape in self.shapes]


class Subject:
    """A model with its default inputs, or with small networks and inputs without a GPU.

    The modules of the models and of random_weights have the same names.
    """

    name: ClassVar[str]
    default: ClassVar[Any]  # its Inputs
    small_inputs: ClassVar[dict[str, Any]]
    short_inputs: ClassVar[tuple[dict[str, int], ...]]  # for variants, each of which makes many clips
    largest_guidance: ClassVar[int]  # that the documented inputs allow
    suffix = ".mp4"

    def __init__(self, device: Device, directory: Path, peak: float = 0) -> None:
        self.device = device
        self.directory = directory  # of the weights
        self.peak = peak  # operations a second of the device's matrix products
        self.small = device.device.type != "cuda"
        self.size = "small" if self.small else "full"
        self.recipe = importlib.import_module(f"random_weights.{package_of(self.name)}")
        self.inputs = replace(self.default, **self.small_inputs) if self.small else self.default
        self.runs = 1 if self.small else 3  # alternately

    @staticmethod
    def networks(*, small: bool) -> list[Network]:
        """Return the networks with the shapes of the default inputs, and some larger ones."""
        raise NotImplementedError

    def by_diffusers(self) -> tuple[dict[str, int], Callable[[], object]]:
        """Return changes of the inputs, and a function that computes their frames with diffusers' own pipeline."""
        raise NotImplementedError

    def combinations(self) -> list[Any]:
        """Return the inputs with each choice of weights or method."""
        raise NotImplementedError

    def switch(self, index: int) -> None:
        """Load the weights of another choice, those with an even or an odd index."""

    def parts(self, pipeline: Any) -> Any:
        """Return the object with the pipeline's `unet` and `vae`."""
        return pipeline

    def load(self, device: Device) -> Any:
        """Return the product's pipeline, loaded from random files, which the first call writes."""
        if not self.directory.exists():
            self.recipe.write(self.directory, self.recipe.SIZES[self.size])
        weights, pipeline = (importlib.import_module(f"{package_of(self.name)}.{m}") for m in ("weights", "pipeline"))
        return pipeline.Pipeline(WeightStore(weights.FILES, directories=[self.directory], cache=None), device)

    @cached_property
    def pipeline(self) -> Any:
        return self.load(self.device)

    def frames(self, pipeline: Any, inputs: Any, stages: Stages, directory: Path) -> Iterator[Frame]:
        frames: Iterator[Frame] = pipeline.generate(inputs, inputs.seed, stages)
        return frames

    def clip(self, pipeline: Any = None, **changes: Any) -> np.ndarray:
        """Return the frames, (F, H, W, 3) uint8, of the inputs with changes."""
        pipeline, inputs = pipeline or self.pipeline, replace(self.inputs, **changes)
        with TemporaryDirectory() as directory:
            return np.stack(list(self.frames(pipeline, inputs, Stages(pipeline.device), Path(directory))))

    def predict(self) -> tuple[Stages, str]:
        """Return the stages of a whole prediction, and the SHA-256 of its file."""
        stages = Stages(self.device)
        with TemporaryDirectory() as directory:
            path = Path(directory, f"clip{self.suffix}")
            with stages("frames and file", path.name):
                ENCODERS[path.suffix](self.frames(self.pipeline, self.inputs, stages, path.parent), path, fps=8)
            return stages, hashlib.sha256(path.read_bytes()).hexdigest()
