"""The device and the weight stores that tests of a model use: the CPU, and directories without any connection."""

from __future__ import annotations

from pathlib import Path

import torch
from animate_diff.weights import FILES
from videokit.runtime import Device
from videokit.weights.store import WeightStore

CPU = Device(torch.device("cpu"), torch.float32)


def store_of(*directories: Path) -> WeightStore:
    """A store of animate-diff's files that looks into these directories, and never connects."""
    return WeightStore(FILES, directories=directories, cache=None)
