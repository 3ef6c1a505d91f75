"""A model that runs in Cog's server, shared by end-to-end tests, and functions that read its answers."""

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
    """A running server, the directory of its temporary files, and the lines of its log."""

    server: CogServer
    temporary: Path
    log: list[str]

    def files(self) -> list[Path]:
        """Return the temporary files of the server and its worker."""
        return [path for path in self.temporary.rglob("*") if not path.is_dir()]

    def inputs(self) -> dict[str, dict[str, Any]]:
        """Return the published schema of each input, without the members that Cog adds."""
        schemas = self.server.get("/openapi.json")["components"]["schemas"]
        published = {}
        for name, declared in schemas["Input"]["properties"].items():
            added = ("title", "x-order", "nullable", "allOf")
            fields = {key: value for key, value in declared.items() if key not in added}
            for reference in declared.get("allOf", []):
                enumeration = schemas[reference["$ref"].rpartition("/")[2]]
                fields |= {key: enumeration[key] for key in ("type", "enum")}
            published[name] = fields
        return published

    def cancel_at(self, inputs: dict[str, Any], text: str) -> dict[str, Any]:
        """Start a prediction, cancel it when a line of its log contains `text`, and return its answer.

        A busy machine may let a prediction end before the cancel. Then another one is started.
        """
        for _ in range(10):
            answer = self._try_to_cancel_at(inputs, text)
            if answer["status"] != "succeeded":
                return answer
        raise AssertionError(f"10 predictions ended before {text!r} or their cancel")

    def _try_to_cancel_at(self, inputs: dict[str, Any], text: str) -> dict[str, Any]:
        wait_until_ready(self.server)
        before = len(self.log)
        answers: list[dict[str, Any]] = []
        name = f"cancelled-{time.monotonic_ns()}"
        thread = threading.Thread(target=lambda: answers.append(self.server.predict(inputs, name)))
        thread.start()
        while thread.is_alive() and not any(text in line for line in self.log[before:]):
            time.sleep(0.005)
        self.server.cancel(name)
        thread.join()
        wait_until_ready(self.server)
        return answers[0]

    def reset_peak(self) -> int:
        """Reset the peaks of memory and return the current memory of the largest process, in kB."""
        for process in self._processes():
            (process / "clear_refs").write_text("5")  # proc(5): resets VmHWM
        return max(_status(process, "VmRSS") for process in self._processes())

    def peak(self) -> int:
        """Return the peak memory of the largest of the server's processes, in kB."""
        return max(_status(process, "VmHWM") for process in self._processes())

    def _processes(self) -> list[Path]:
        """Return the processes that have the temporary directory in their environment."""
        processes = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if f"TMPDIR={self.temporary}".encode() in (process / "environ").read_bytes().split(b"\0"):
                    processes.append(process)
            except OSError:  # it has ended, or belongs to another user
                continue
        return processes


def wait_until_ready(server: CogServer) -> None:
    """Wait until the server accepts a prediction, which is a moment after the last one has ended."""
    deadline = time.monotonic() + 60
    while (status := server.get("/health-check")["status"]) != "READY":
        assert status == "BUSY"
        assert time.monotonic() < deadline
        time.sleep(0.02)


def files(answer: dict[str, Any]) -> list[tuple[str, bytes]]:
    """Return the media types and the contents of the files of a prediction that has succeeded."""
    assert answer.get("status") == "succeeded", answer
    return [file(uri) for uri in answer["output"]]


def file(uri: str) -> tuple[str, bytes]:
    """Return the media type and the content of a data URI."""
    header, _, content = uri.partition(",")
    return header.removeprefix("data:").removesuffix(";base64"), base64.b64decode(content)


def _status(process: Path, field: str) -> int:
    match = re.search(rf"{field}:\s+(\d+)", (process / "status").read_text())
    return int(match[1]) if match else 0  # a zombie process has no such field
