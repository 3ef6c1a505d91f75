"""What might be faster: each variant alternately with the product as it is, and the largest difference in pictures.

diffusers' `set_attention_backend` has no effect here: the processors of these networks call torch's attention. So
`sdpa_kernel` chooses among torch's own kernels.
"""

from __future__ import annotations

import statistics
import time
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from videokit.runtime import Device

from benchmarks.on_gpu.predictions import NEEDS_CUDA

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.on_gpu.subject import Figures, Row, Subject

GAIN = 1.05  # times as fast, at least, for a variant that is worth its price
REPEATED = {"BasicTransformerBlock", "ResnetBlock2D", "TemporalConvLayer"}  # diffusers' classes


@dataclass(frozen=True)
class Variant:
    """A change of a pipeline's `unet` and `vae`, or of torch's settings while they run."""

    name: str
    apply: Callable[[Any], None] = lambda parts: None
    context: Callable[[], AbstractContextManager[object]] = nullcontext
    dtype: torch.dtype | None = None
    needs_cuda: bool = False


def use_channels_last(parts: Any) -> None:
    for parameter in (*parts.unet.parameters(), *parts.vae.parameters()):
        if parameter.ndim == 4:  # not the weights of 3D convolutions
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


def compile_blocks(parts: Any) -> None:
    # The blocks of one class have many widths and shapes. With torch's limit of 8, some would not be compiled.
    torch._dynamo.config.recompile_limit = 64
    for block in parts.unet.modules():
        if type(block).__name__ in REPEATED:
            block.compile()


def replay_graphs(parts: Any) -> None:
    parts.unet.forward = Graphs(parts.unet.forward)


@contextmanager
def convolutions_by_timing() -> Iterator[None]:
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.deterministic
    cudnn.benchmark, cudnn.deterministic = True, False
    try:
        yield
    finally:
        cudnn.benchmark, cudnn.deterministic = before


class Graphs:
    """A UNet's forward as a CUDA graph for each shape of its inputs, captured at the first call."""

    def __init__(self, forward: Callable[..., Any]) -> None:
        self.forward = forward
        self.captured: dict[tuple[torch.Size, ...], tuple[torch.cuda.CUDAGraph, list[torch.Tensor], Any]] = {}

    def __call__(self, sample: torch.Tensor, timestep: int, text: torch.Tensor) -> Any:
        inputs = [sample, torch.full((), timestep, device=sample.device), text]
        shapes = sample.shape, text.shape
        if shapes not in self.captured:
            self.captured[shapes] = self._capture([tensor.clone() for tensor in inputs])
        graph, static, output = self.captured[shapes]
        for tensor, value in zip(static, inputs, strict=True):
            tensor.copy_(value)
        graph.replay()
        return output  # until the next call; the samplers convert it to float32 at once

    def _capture(self, static: list[torch.Tensor]) -> tuple[torch.cuda.CUDAGraph, list[torch.Tensor], Any]:
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # libraries allocate their memory before the capture
            for _ in range(3):
                self.forward(*static)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            output = self.forward(*static)
        return graph, static, output


def attention_by(kernel: SDPBackend) -> AbstractContextManager[object]:
    """Prefer a kernel of attention; others compute the VAE's, whose heads are too wide for some."""
    return sdpa_kernel([kernel, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH], set_priority=True)


KERNELS = (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION)
VARIANTS = (
    Variant("channels_last", use_channels_last),
    Variant("cudnn.benchmark", context=convolutions_by_timing),
    *(Variant(kernel.name, context=partial(attention_by, kernel)) for kernel in KERNELS),
    Variant("bfloat16", dtype=torch.bfloat16),
    Variant("CUDA graphs of the UNet", replay_graphs, needs_cuda=True),
    Variant("repeated blocks compiled", compile_blocks, needs_cuda=True),
    Variant("repeated blocks compiled, with inductor's cache", compile_blocks, needs_cuda=True),
)


def compare(subject: Subject) -> Iterator[Row]:
    for variant in VARIANTS:
        for changes in ({},) if subject.small else subject.short_inputs:
            name = ", ".join([variant.name, *(f"{name}={value}" for name, value in changes.items())])
            try:
                needed = variant.needs_cuda and subject.small
                yield name, NEEDS_CUDA if needed else _figures(subject, variant, changes)
            except RuntimeError as error:  # no such kernel on this device
                yield name, {"not measured": str(error).partition("\n")[0]}
            torch.compiler.reset()
            subject.device.release()


def _figures(subject: Subject, variant: Variant, changes: dict[str, int]) -> Figures:
    pipeline = subject.load(Device(subject.device.device, variant.dtype or subject.device.dtype))
    variant.apply(subject.parts(pipeline))

    def clip(pipeline: Any, context: Callable[[], AbstractContextManager[object]]) -> tuple[float, np.ndarray]:
        start = time.perf_counter()
        with context():
            frames = subject.clip(pipeline, **changes)
        return time.perf_counter() - start, frames

    changed, unchanged = partial(clip, pipeline, variant.context), partial(clip, subject.pipeline, nullcontext)
    first, frames = changed()  # compiles
    expected = unchanged()[1]
    pairs = [(changed(), unchanged()[0]) for _ in range(subject.runs)]
    ratio = statistics.median(plain / ours for (ours, _), plain in pairs)
    difference = int(np.abs(frames.astype(int) - expected).max())
    repeatable = all(np.array_equal(again, frames) for (_, again), _ in pairs)
    figures: Figures = {
        "times as fast": ratio,
        "s": statistics.median(ours for (ours, _), _ in pairs),
        "s the first time": first,
        "levels of 255": difference,
        "the same bytes each time": repeatable,
    }
    verdict = "no" if ratio < GAIN else "as the default" if repeatable else "as an option"
    return figures if subject.small else figures | {"worth it": verdict}
