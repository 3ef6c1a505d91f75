"""The `cog` program, which builds and pushes images."""

from __future__ import annotations

import shutil
import subprocess
import sys

from tree import ROOT


def cog(model: str, *arguments: str) -> None:
    """Run `cog` in a model's directory. Exits if cog or Docker is missing, or if cog fails."""
    for program, url in (("cog", "https://cog.run"), ("docker", "https://docs.docker.com/engine/install")):
        if shutil.which(program) is None:
            sys.exit(f"{program} is not installed; see {url}")
    print(f"{model}: cog {' '.join(arguments)}", flush=True)
    if code := subprocess.run(["cog", *arguments], cwd=ROOT / model, check=False).returncode:
        sys.exit(code)
