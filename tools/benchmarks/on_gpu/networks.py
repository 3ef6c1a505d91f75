"""Each network alone: time, share of the device's peak, memory, and the floating-point operations of a call."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.utils.flop_counter import FlopCounterMode
from videokit.runtime import GB, Device

from benchmarks.on_gpu.timing import device_seconds, peak_gpu_memory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.on_gpu.subject import Figures, Network, Row, Subject

META = Device(torch.device("meta"), torch.float16)


@torch.inference_mode()
def count_flops(network: Network) -> int:
    """Return the floating-point operations of one call, two for a multiplication with its addition.

    Matrix products, convolutions and attention count. Element-wise operations and Fourier transforms do not.
    """
    module, tensors = network.build(META)
    with FlopCounterMode(display=False) as counter:
        network.run(module, *tensors)
    return int(counter.get_total_flops())


def speed(subject: Subject) -> Iterator[Row]:
    for network in subject.networks(small=subject.small):
        yield network.name, _figures(subject, network)
        subject.device.release()


@torch.inference_mode()
def _figures(subject: Subject, network: Network) -> Figures:
    flops, (module, tensors) = count_flops(network), network.build(subject.device)

    def call() -> None:
        network.run(module, *tensors)

    seconds = device_seconds(subject.device, call, subject.runs)
    figures: Figures = {
        "ms": 1000 * seconds,
        "TFLOP": flops / 1e12,
        "TFLOP/s": flops / seconds / 1e12,
        "% of the matrix product's": 100 * flops / seconds / subject.peak,
    }
    figures |= peak_gpu_memory(subject.device, call)
    if network.predicted_bytes is not None and not subject.small:
        figures["GB by the product's estimate"] = network.predicted_bytes / GB
    return figures
