"""Serve a test model with Cog's own server until stdin closes, as the command of a model must."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

from cog_local.server import CogServer, ServerError

ended = threading.Event()
threading.Thread(target=lambda: (os.read(0, 1), ended.set()), daemon=True).start()
with CogServer(Path(sys.argv[1])) as server:
    print(f"{sys.argv[1]} is ready at {server.url}", flush=True)
    try:
        while not ended.wait(0.1):
            server.check()
    except ServerError as error:
        sys.exit(str(error))
