"""How every script ends, and what it shows at a terminal. Supports Python 3.8, needs no package."""

from __future__ import annotations

import atexit
import contextlib
import itertools
import os
import shutil
import signal
import sys
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import FrameType
    from typing import NoReturn

STDOUT, STDERR = 1, 2
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
COLOURS = {"red": 31, "green": 32, "yellow": 33, "cyan": 36}
INTERVAL = 0.5  # seconds
_FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_ERASE = "\r\x1b[K"
_writing = threading.RLock()  # a signal may come while the main thread has it


def end_quietly() -> None:
    """Let Ctrl-C, SIGTERM and a closed terminal end this script at once with one line, and a closed pipe with none.

    They raise SystemExit with the status 128 + signal, so `with` and `finally` run. A second signal ends the process.
    """
    for number in SIGNALS:
        if (number, signal.getsignal(number)) != (signal.SIGHUP, signal.SIG_IGN):  # ignored under nohup
            signal.signal(number, _stop)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # _bootstrap.py blocks them while it starts another Python
    sys.excepthook = _report
    atexit.register(_end)


def leave_signals_to_the_main_thread() -> None:
    """Block the signals in this thread: the main thread would wait on if the system gave one to another thread."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    for each in SIGNALS:
        signal.signal(each, signal.SIG_DFL)
    with _writing:  # no other thread is in the middle of a line
        write(f"{_ERASE if is_terminal() else ''}stopped\n")
        os.dup2(os.open(os.devnull, os.O_WRONLY), STDERR)  # no line of a library or a thread follows this one
    if _is_running(frame):
        signal.signal(signal.SIGALRM, partial(_insist, 128 + number))
        signal.setitimer(signal.ITIMER_REAL, INTERVAL, INTERVAL)
    raise SystemExit(128 + number)


def _insist(code: int, _: int, frame: FrameType | None) -> None:
    """Raise SystemExit again if the script goes on.

    A bare `except:` drops it, as in the modules of Cython, and so does Python in a destructor or a callback of weakref.
    """
    error = sys.exc_info()[1]
    while error is not None and not isinstance(error, SystemExit):
        error = error.__context__
    if error is None and _is_running(frame):  # otherwise `with` and `finally` run, or what runs at exit
        raise SystemExit(code)


def _is_running(frame: FrameType | None) -> bool:
    """Return whether the script itself runs, and not what the interpreter runs after it."""
    while frame is not None and frame.f_back is not None:
        frame = frame.f_back
    return frame is not None and frame.f_code.co_name == "<module>"


def _report(kind: Any, error: BaseException, traceback: Any) -> None:
    if issubclass(kind, BrokenPipeError):  # of `| head`
        raise SystemExit(128 + signal.SIGPIPE)
    sys.__excepthook__(kind, error, traceback)


def _end() -> None:
    """Write the rest of stdout, or drop it if its reader has ended. Python would print an error at exit."""
    signal.setitimer(signal.ITIMER_REAL, 0)  # of `_stop`; without its handler, which Python removes, it would kill
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), STDOUT)


def write(text: str) -> None:
    """Write to stderr at once, if it can be written."""
    with contextlib.suppress(OSError), _writing:
        os.write(STDERR, text.encode())


def is_terminal(stream: int = STDERR) -> bool:
    """Return whether a stream, by its number, is a terminal that can draw a line again."""
    return os.isatty(stream) and os.environ.get("TERM") != "dumb"


def colour(text: str, name: str, stream: int = STDERR) -> str:
    """Return the text in one of COLOURS if the stream is a terminal and NO_COLOR is not set."""
    if os.environ.get("NO_COLOR") or not is_terminal(stream):
        return text
    return f"\x1b[{COLOURS[name]}m{text}\x1b[0m"


class MovingLine:
    """A context manager: the last line of a terminal shows `text` and its seconds until the end. Nothing elsewhere.

    `text` may be set again, also to a progress bar. `print` writes a line above.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._start = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._draw, daemon=True)

    def __enter__(self) -> MovingLine:
        if is_terminal():
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join()
            write(_ERASE)

    def print(self, line: str) -> None:
        write(f"{_ERASE if is_terminal() else ''}{line}\n")

    def _draw(self) -> None:
        leave_signals_to_the_main_thread()
        for frame in itertools.cycle(_FRAMES):
            seconds = f"{time.monotonic() - self._start:.0f} s"
            line = f"{self.text}  {seconds}"[: shutil.get_terminal_size().columns - 3]
            write(f"\r{colour(frame, 'cyan')} {line}\x1b[K")
            if self._ended.wait(0.1):
                return
