"""The device of the models' tests, and a weight store that opens no connection."""

from __future__ import annotations

from pathlib import Path

import torch
from animate_diff.weights import FILES
from videokit.runtime import Device
from videokit.weights.store import WeightStore

CPU = Device(torch.device("cpu"), torch.float32)


def store_of(*directories: Path) -> WeightStore:
    """Return a store of animate-diff's files in these directories."""
    return WeightStore(FILES, directories=directories, cache=None)
