"""Light modules do not import the slow libraries."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "module",
    ["seeds", "prediction", "weights.store", "video.frames", "video.decode"],
)
def test_a_module_without_networks_imports_neither_torch_nor_the_hubs_library(module: str) -> None:
    program = (
        f"import sys, videokit.{module}; sys.exit(len({{'torch', 'huggingface_hub', 'httpx2'}} & sys.modules.keys()))"
    )
    subprocess.run([sys.executable, "-c", program], check=True, env={"PYTHONPATH": ":".join(sys.path)})
