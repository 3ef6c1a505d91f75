"""The torch that runs natively and in the tests, and where its CPU builds are."""

from __future__ import annotations

import platform
import shutil
import urllib.request

TORCH = "torch==2.13.0"  # newer than the images', whose version Cog's table of CUDA versions has to know
CPU_WHEELS = "https://download.pytorch.org/whl/cpu"


def cpu_wheels() -> list[str]:
    """Return pip's options for CPU builds where they save gigabytes of CUDA, and can be reached."""
    if platform.system() != "Linux" or shutil.which("nvidia-smi"):
        return []
    try:
        urllib.request.urlopen(f"{CPU_WHEELS}/torch/", timeout=3).close()
    except OSError:
        return []
    return ["--extra-index-url", CPU_WHEELS]
