"""The ffmpeg program, which reads and writes all video files, and its processes.

imageio-ffmpeg ships the program. The environment variable IMAGEIO_FFMPEG_EXE names another one.
"""

from __future__ import annotations

import io
import os
import re
import select
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from operator import itemgetter
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

import imageio_ffmpeg

from videokit.errors import VideokitError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Self

    from _typeshed import WriteableBuffer as Buffer

PIPE = subprocess.PIPE
LIBAVUTIL_8 = 60  # of ffmpeg 8; builds from a git tree state no version of the program
NEEDED = (
    "ffmpeg 8 or newer is needed (fd:, -stats_enc_pre): pip install imageio-ffmpeg==0.8.1, or set IMAGEIO_FFMPEG_EXE"
)


@dataclass(frozen=True)
class Program:
    """The program; `limits` is whether util-linux can set the limits of its processes."""

    path: str
    version: str
    limits: bool


@cache
def program() -> Program:
    """Return the program; raise VideokitError if there is none, or an older one than ffmpeg 8.

    imageio-ffmpeg falls back to the system's ffmpeg without a word if its wheel has no program.
    """
    try:
        path = imageio_ffmpeg.get_ffmpeg_exe()
        text = subprocess.run([path, "-version"], capture_output=True, text=True, timeout=60).stdout
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        raise VideokitError(f"no ffmpeg: {error}; {NEEDED}") from error
    version, library = re.match(r"ffmpeg version (\S+)", text), re.search(r"^libavutil +(\d+)\.", text, re.MULTILINE)
    if version is None or library is None or int(library[1]) < LIBAVUTIL_8:
        raise VideokitError(f"{path} is {text.partition(' Copyright')[0][:80] or 'not ffmpeg'}; {NEEDED}")
    limits = (
        all(map(shutil.which, ("setpriv", "prlimit")))
        and not subprocess.run(
            ["setpriv", "--pdeathsig", "KILL", "prlimit", "--cpu=9", path, "-version"], capture_output=True
        ).returncode
    )  # BusyBox has another setpriv
    return Program(path, version[1], limits)


class Process:
    """A process of the program that never outlives its `with` block, whatever ends the block.

    A cancel is an exception that is raised between two bytecodes, also here. So ids and results of system calls are
    stored by C code: `list.extend(map(...))`. On Linux the system kills the process when the thread that started it
    ends, so that thread must outlive the block. Elsewhere the process of a killed parent ends at its closed pipe.

    `stdin` is PIPE, a file descriptor or nothing; `stdout` is PIPE or nothing. `memory` limits the address space in
    bytes and `cpu_seconds` the processor time, where util-linux is installed. Reading `stdout` and `wait` raise
    TimeoutError when they have waited for `seconds` altogether.
    """

    def __init__(
        self,
        arguments: Sequence[str | os.PathLike[str]],
        *,
        stdin: int | None = None,
        stdout: int | None = None,
        loglevel: str = "error",
        memory: int | None = None,
        cpu_seconds: int | None = None,
        seconds: float | None = None,
    ) -> None:
        limits = [f"--as={memory}"] * (memory is not None) + [f"--cpu={cpu_seconds}"] * (cpu_seconds is not None)
        launcher = ["setpriv", "--pdeathsig", "KILL", *(["prlimit", *limits] if limits else [])]
        self._command = [
            *(launcher if program().limits else []),
            *(program().path, "-hide_banner", "-nostdin", "-nostats", "-loglevel", loglevel),
            *(os.fspath(argument) for argument in arguments),
        ]
        self._seconds = seconds
        self._sources = stdin, stdout
        self._files: list[io.FileIO] = []
        self._ids: list[int] = []
        self._ends: list[tuple[int, int]] = []
        self._log = TemporaryFile()  # noqa: SIM115 (closed by `close`; a pipe that nobody reads would block the process)
        self.stdin: io.BufferedWriter = io.BufferedWriter(io.BytesIO())  # `_start` replaces both by pipes
        self.stdout: io.BufferedReader = io.BufferedReader(io.BytesIO())

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            self.close()
        finally:
            self.close()  # again, because a cancel may have interrupted the first call

    def __del__(self) -> None:
        self.close()  # a cancel at the first bytecode of __exit__

    def _start(self) -> None:
        files: list[io.FileIO] = [io.FileIO(os.devnull, "r+")]
        stdin, stdout = (files[0].fileno() if end in (None, PIPE) else end for end in self._sources)
        if self._sources[0] == PIPE:
            files.extend(map(io.FileIO, os.pipe(), "rw"))
            stdin = files[-2].fileno()
            self._files.append(files[-1])
            self.stdin = io.BufferedWriter(files[-1])
        if self._sources[1] == PIPE:
            files.extend(map(io.FileIO, os.pipe(), "rw"))
            stdout = files[-1].fileno()
            self._files.append(files[-2])
            self.stdout = io.BufferedReader(_Output(files[-2], self._wait_for), 1 << 16)
        descriptors = (stdin, stdout, self._log.fileno())
        spawn = partial(
            os.posix_spawnp,
            self._command[0],
            self._command,
            file_actions=[(os.POSIX_SPAWN_DUP2, end, number) for number, end in enumerate(descriptors)],
            setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],  # Python ignores them
        )
        environ = {name: value for name, value in os.environ.items() if name != "FFREPORT"}  # it writes a file
        self._ids.extend(map(spawn, [environ]))
        for file in files:
            if file not in self._files:
                file.close()

    def close(self) -> None:
        """Kill the process if it runs, wait for its end and close its pipes."""
        if self._ids and not self._ends:
            os.kill(self._ids[0], signal.SIGKILL)
            self._ends.extend(map(os.waitpid, self._ids, [0]))
        for file in self._files:
            file.close()
        self._log.close()

    def wait(self) -> int:
        """Close the program's standard input, wait for its end and return its exit status, or minus the signal."""
        with suppress(BrokenPipeError):
            self.stdin.close()
        options = 0 if self._seconds is None else os.WNOHANG
        while not self._ends:
            self._ends.extend(filter(itemgetter(0), map(os.waitpid, self._ids, [options])))
            if not self._ends:
                self._wait_for(None, 0.001)
        return os.waitstatus_to_exitcode(self._ends[0][1])

    def log(self, size: int = 1 << 20) -> str:
        """Return the first `size` bytes that the program has written to its standard error so far."""
        return os.pread(self._log.fileno(), size, 0).decode(errors="replace")

    def _wait_for(self, pipe: io.FileIO | None, seconds: float | None = None) -> None:
        """Wait till the pipe has data, or for `seconds`; count the time."""
        if self._seconds is not None:
            start = time.monotonic()
            select.select([pipe] if pipe else [], [], [], self._seconds if seconds is None else seconds)
            self._seconds = max(0, self._seconds - (time.monotonic() - start))
            if not self._seconds:
                raise TimeoutError("the process has reached its limit of wall-clock time")


class _Output(io.RawIOBase):
    """The standard output of a process; `wait` is called before each read."""

    def __init__(self, pipe: io.FileIO, wait: Callable[[io.FileIO], None]) -> None:
        self._pipe, self._wait = pipe, wait

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer, /) -> int | None:
        self._wait(self._pipe)
        return self._pipe.readinto(buffer)
