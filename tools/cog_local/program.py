"""Calls the `cog` program, which builds and pushes images, in a model's directory."""

from __future__ import annotations

import shutil
import subprocess
import sys

from tree import ROOT


def cog(model: str, *arguments: str) -> None:
    """Run `cog` for one model; end this script where it, or Docker, is missing or fails."""
    for program, where in (("cog", "https://cog.run"), ("docker", "https://docs.docker.com/engine/install")):
        if shutil.which(program) is None:
            sys.exit(f"{program} is not on this machine; see {where}")
    print(f"{model}: cog {' '.join(arguments)}", flush=True)
    if code := subprocess.run(["cog", *arguments], cwd=ROOT / model, check=False).returncode:
        sys.exit(code)
