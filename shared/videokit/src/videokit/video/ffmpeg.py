"""The ffmpeg program, which reads and writes all video files, and its processes.

imageio-ffmpeg ships the program. The environment variable IMAGEIO_FFMPEG_EXE names another one.
"""

from __future__ import annotations

import io
import os
import re
import resource
import select
import signal
import subprocess
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cache, partial
from itertools import chain, starmap
from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING, Any

import imageio_ffmpeg

from videokit.errors import VideokitError
from videokit.files import unnamed_file

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

KILLED_WITH_PARENT = ("setpriv", "--pdeathsig", "KILL")
LIBAVUTIL_8 = 60  # of ffmpeg 8; builds from a git tree state no version of the program
NEEDED = (
    "ffmpeg 8 or newer is needed (fd:, -stats_enc_pre): pip install imageio-ffmpeg==0.8.1, or set IMAGEIO_FFMPEG_EXE"
)


@dataclass(frozen=True)
class Program:
    """The program; `setpriv` is whether util-linux can make the system kill a process with its parent."""

    path: str
    version: str
    setpriv: bool


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
    try:
        setpriv = not subprocess.run([*KILLED_WITH_PARENT, "true"], timeout=60, stderr=subprocess.DEVNULL).returncode
    except OSError:
        setpriv = False  # macOS
    return Program(path, version[1], setpriv)


class Process:
    """A process of the program that never outlives its `with` block, whatever ends the block.

    A cancel is an exception that is raised between two bytecodes, also here. So ids and results of system calls are
    stored by C code: `list.extend(map(...))`. On Linux the system kills the process when the thread that started it
    ends, so that thread must outlive the block. Elsewhere the process of a killed parent ends at its closed pipe.

    The standard input is `source`, an open file, or the pipe `stdin`. `limits` are those of setrlimit(2), on Linux
    only. Reading `stdout` raises TimeoutError when it has waited for `seconds` altogether.
    """

    stdin: io.BufferedWriter
    stdout: io.BufferedReader

    def __init__(
        self,
        arguments: Sequence[str | os.PathLike[str]],
        *,
        source: io.FileIO | None = None,
        loglevel: str = "error",
        limits: Sequence[tuple[int, int]] = (),
        seconds: float = 1e6,
    ) -> None:
        self._ids: list[int] = []
        self._ends: list[tuple[int, int]] = []
        self._files: list[io.FileIO | io.BufferedRandom | io.BufferedWriter] = []  # first its standard error
        self._source, self._limits, self._seconds = source, limits, seconds
        options = ("-hide_banner", "-nostdin", "-nostats", "-loglevel", loglevel)
        launcher = KILLED_WITH_PARENT if program().setpriv else ()
        self._command = [*launcher, program().path, *options, *(os.fspath(word) for word in arguments)]

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
        if self._ids and not self._ends:  # a cancel at the first bytecode of __exit__; Python ignores one in here
            self.close()

    def _start(self) -> None:
        self._files.append(unnamed_file(Path(gettempdir())))  # a pipe that nobody reads would block the process
        with ExitStack() as ends:  # the process's ends of the pipes
            read, stdout = _pipe()
            ends.enter_context(stdout)
            self.stdout = io.BufferedReader(_Output(read, self._seconds), 1 << 16)
            self._files.append(read)
            stdin = self._source
            if stdin is None:
                stdin, write = _pipe()
                ends.enter_context(stdin)
                self.stdin = io.BufferedWriter(write)
                self._files.append(self.stdin)
            descriptors = (stdin, stdout, self._files[0])
            spawn = partial(
                os.posix_spawnp,
                self._command[0],
                self._command,
                file_actions=[(os.POSIX_SPAWN_DUP2, end.fileno(), number) for number, end in enumerate(descriptors)],
                setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],  # Python ignores them
            )
            environ = {name: value for name, value in os.environ.items() if name != "FFREPORT"}  # it writes a file
            self._ids.extend(map(spawn, [environ]))
        for kind, limit in self._limits if hasattr(resource, "prlimit") else ():
            resource.prlimit(self._ids[0], kind, (limit, limit))

    def close(self) -> None:
        """Kill the process if it runs, wait for its end and close its pipes."""
        if self._ids and not self._ends:
            os.kill(self._ids[0], signal.SIGKILL)
            self._ends.extend(map(os.waitpid, self._ids, [0]))
        for file in self._files:
            with suppress(BrokenPipeError):
                file.close()

    def wait(self) -> int:
        """Close the pipe to the process, wait for its end and return its exit status, or minus the signal."""
        if self._source is None:
            with suppress(BrokenPipeError):
                self.stdin.close()
        if not self._ends:
            self._ends.extend(map(os.waitpid, self._ids, [0]))
        return os.waitstatus_to_exitcode(self._ends[0][1])

    def log(self, size: int = 1 << 20) -> str:
        """Return the first `size` bytes that the program has written to its standard error so far."""
        return os.pread(self._files[0].fileno(), size, 0).decode(errors="replace")


def _pipe() -> tuple[io.FileIO, io.FileIO]:
    """Return the ends of a pipe for reading and for writing."""
    read, write = map(io.FileIO, chain.from_iterable(starmap(os.pipe, [()])), "rw")
    return read, write


class _Output(io.RawIOBase):
    """The standard output of a process. All waiting together may take `seconds`."""

    def __init__(self, pipe: io.FileIO, seconds: float) -> None:
        self._pipe, self._seconds, self._poll = pipe, seconds, select.poll()
        self._poll.register(pipe, select.POLLIN)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int | None:
        start = time.monotonic()
        if not self._poll.poll(1000 * self._seconds):
            raise TimeoutError("the process has reached its limit of wall-clock time")
        self._seconds = max(0, self._seconds - (time.monotonic() - start))
        return self._pipe.readinto(buffer)
