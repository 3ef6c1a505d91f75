"""The version of torch for native runs and tests, and the package index of its CPU builds."""

from __future__ import annotations

import platform
import shutil
import urllib.request

TORCH = "torch==2.13.0"  # newer than the images', whose torch has to be in Cog's table of CUDA versions
CPU_WHEELS = "https://download.pytorch.org/whl/cpu"


def cpu_wheels() -> list[str]:
    """Return pip's options for CPU builds, which save gigabytes of CUDA, or [] if they are useless or unreachable."""
    if platform.system() != "Linux" or shutil.which("nvidia-smi"):
        return []
    try:
        urllib.request.urlopen(f"{CPU_WHEELS}/torch/", timeout=3).close()
    except OSError:
        return []
    return ["--extra-index-url", CPU_WHEELS]
