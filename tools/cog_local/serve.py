"""Servers for script/serve: one model's Cog server, or the predictions API in front of all models."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from functools import partial
from typing import TextIO

from tree import ROOT

from cog_local.api_config import write_config
from cog_local.schema import SchemaError
from cog_local.server import CogServer, ServerError

API = [sys.executable, "-m", "predictions_api"]


def serve_api(weights: str, options: list[str]) -> int:
    """Replace this process with the predictions API. Returns an exit status if the configuration cannot be written."""
    try:
        config = write_config(weights)
    except SchemaError as error:
        print(error, file=sys.stderr)
        return 1
    return os.execv(API[0], [*API, "--config", str(config), *options])


def serve_model(model: str, port: int, weights: str, *, until_stdin_ends: bool) -> int:
    """Run one model's Cog server until a signal, or the end of stdin, and return the exit status."""
    if until_stdin_ends:
        threading.Thread(target=_wait_for_stdin, daemon=True).start()
    try:
        with CogServer(ROOT / model, port=port, weights=weights, on_log=partial(_print, file=sys.stderr)) as server:
            _print(f"{model} is ready at {server.url}", sys.stdout)
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


def _print(line: str, file: TextIO | None) -> None:
    with contextlib.suppress(OSError):  # a closed stream does not end the server
        print(line, file=file, flush=True)
