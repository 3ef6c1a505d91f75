"""A model behind Cog's own server, as end-to-end tests share it, and how they read its answers."""

from __future__ import annotations

import base64
import re
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cog_local.server import CogServer


@dataclass
class Served:
    """A running server, the directory for its temporary files, and the lines that it logged."""

    server: CogServer
    temporary: Path
    log: list[str]

    def files(self) -> list[Path]:
        """Every file that the server and its worker have in their temporary directory."""
        return [path for path in self.temporary.rglob("*") if not path.is_dir()]

    def inputs(self) -> dict[str, dict[str, Any]]:
        """What the server publishes of each input, less what Cog adds of its own."""
        schemas = self.server.get("/openapi.json")["components"]["schemas"]
        published = {}
        for name, declared in schemas["Input"]["properties"].items():
            ours = ("title", "x-order", "nullable", "allOf")
            fields = {key: value for key, value in declared.items() if key not in ours}
            for reference in declared.get("allOf", []):
                enumeration = schemas[reference["$ref"].rpartition("/")[2]]
                fields |= {key: enumeration[key] for key in ("type", "enum")}
            published[name] = fields
        return published

    def cancelled_at(self, inputs: dict[str, Any], reached: str) -> dict[str, Any]:
        """Ask for a prediction, cancel it when it logs a line with `reached` in it, and return how it ended."""
        wait_until_ready(self.server)
        before = len(self.log)
        answers: list[dict[str, Any]] = []
        name = f"cancelled-{time.monotonic_ns()}"
        thread = threading.Thread(target=lambda: answers.append(self.server.predict(inputs, name)))
        thread.start()
        while not any(reached in line for line in self.log[before:]):
            assert thread.is_alive()
            time.sleep(0.005)
        assert self.server.cancel(name)
        thread.join()
        wait_until_ready(self.server)
        return answers[0]

    def forget_peak(self) -> int:
        """Let the peaks of memory count from now on, and return what the largest of the processes has now, in kB."""
        for process in self._processes():
            (process / "clear_refs").write_text("5")  # proc(5): resets VmHWM
        return max(_status(process, "VmRSS") for process in self._processes())

    def peak(self) -> int:
        """Return the most memory that the largest of the server's processes has had, in kB."""
        return max(_status(process, "VmHWM") for process in self._processes())

    def _processes(self) -> list[Path]:
        """The processes that the server is, by its temporary directory in their environment."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if f"TMPDIR={self.temporary}".encode() in (process / "environ").read_bytes().split(b"\0"):
                    found.append(process)
            except OSError:  # it has ended, or is another user's
                continue
        return found


def wait_until_ready(server: CogServer) -> None:
    """Return when the server takes the next prediction, which it does a moment after the last has ended."""
    deadline = time.monotonic() + 10
    while (status := server.get("/health-check")["status"]) != "READY":
        assert status == "BUSY"
        assert time.monotonic() < deadline
        time.sleep(0.02)


def files(answer: dict[str, Any]) -> list[tuple[str, bytes]]:
    """Return the kinds and the files of a prediction that has succeeded."""
    assert answer.get("status") == "succeeded", answer
    return [file(uri) for uri in answer["output"]]


def file(uri: str) -> tuple[str, bytes]:
    """Return the kind of a data URI's file, and the file."""
    header, _, content = uri.partition(",")
    return header.removeprefix("data:").removesuffix(";base64"), base64.b64decode(content)


def _status(process: Path, field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+)", (process / "status").read_text())
    return int(found[1]) if found else 0  # a zombie has none
