"""One model's Cog server, for script/serve."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time

from terminal import MovingLine
from tree import ROOT

from cog_local.schema import SchemaError
from cog_local.server import CogServer, ServerError


def serve_model(model: str, port: int, weights: str, *, until_stdin_ends: bool) -> int:
    """Run one model's Cog server until a signal, or the end of stdin, and return the exit status."""
    if until_stdin_ends:
        threading.Thread(target=_wait_for_stdin, daemon=True).start()
    try:
        with contextlib.ExitStack() as stack:
            with MovingLine(f"starting {model}") as line:
                server = CogServer(ROOT / model, port=port, weights=weights, on_log=line.print)
                stack.enter_context(server)
            with contextlib.suppress(OSError):  # a closed stream does not end the server
                print(f"{model} is ready at {server.url}", flush=True)
            while True:
                time.sleep(0.1)
                server.check()
    except (SchemaError, ServerError) as error:
        print(error, file=sys.stderr)
        return 1


def _wait_for_stdin() -> None:
    while os.read(0, 4096):  # unbuffered: Python cannot close a buffer at exit while a thread reads into it
        pass
    os.kill(os.getpid(), signal.SIGTERM)
