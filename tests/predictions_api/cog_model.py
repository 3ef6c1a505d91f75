"""Serve a test model with Cog's own server until stdin closes, as the command of a model must."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

from cog_local.server import CogServer

with CogServer(Path(sys.argv[1])) as server:
    print(f"{sys.argv[1]} is ready at {server.url}", flush=True)
    sys.stdin.read()
