"""Specification of the terminal: how a script ends, and what it shows."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from processes import processes_with, wait_until_ended
from pseudo_terminal import CTRL_C, terminal
from tree import ROOT

SCRIPT = """
import sys, time
sys.path.insert(0, sys.argv[1])
from terminal import MovingLine, colour, end_quietly
end_quietly()
"""
HANGUP = "import signal; signal.signal(signal.SIGHUP, signal.SIG_DFL)"  # the tests may run under nohup
WAIT = HANGUP + SCRIPT + "with MovingLine('working') as line:\n    line.print('a line')\n    time.sleep(600)\n"


def python(script: str) -> list[str]:
    return [sys.executable, "-c", script, str(ROOT / "tools")]


def test_a_line_moves_and_is_gone_at_the_end(tmp_path: Path) -> None:
    go = tmp_path / "go"
    script = (
        SCRIPT + f"import os\nwith MovingLine('working'):\n    while not os.path.exists({str(go)!r}): time.sleep(0.02)"
    )
    with terminal(*python(f"{script}\nprint('done')")) as shown:
        for text in ("⠋", "⠙", "⠹", "working  "):
            shown.wait_for(text)
        go.touch()
        assert shown.status() == 0
    assert shown.lines() == ["done", ""]


def test_ctrl_c_ends_a_script_with_one_line_and_status_130() -> None:
    with terminal(*python(WAIT)) as shown:
        shown.wait_for("a line")
        shown.press(CTRL_C)
        assert shown.status() == 130
    assert shown.lines() == ["a line", "stopped", ""]


def test_no_thread_writes_after_the_line_of_a_stop() -> None:
    script = SCRIPT + "import terminal, threading\nline = MovingLine('working')\n"
    script += "def work():\n    terminal.leave_signals_to_the_main_thread()\n    while True: line.print('a line')\n"
    script += "for _ in range(2): threading.Thread(target=work, daemon=True).start()\nprint('ready', flush=True)\n"
    with subprocess.Popen(
        python(f"{script}time.sleep(600)"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        reader = threading.Thread(target=lambda: lines.extend(process.stderr))
        lines: list[str] = []
        reader.start()  # a full pipe would stop the threads
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        reader.join()
    assert process.returncode == 130
    assert lines[-1] == "stopped\n"


def test_a_second_ctrl_c_ends_a_script_that_cleans_up() -> None:
    script = SCRIPT + "try:\n    print('ready'); time.sleep(600)\nfinally:\n    time.sleep(600)\n"
    with terminal(*python(script)) as shown:
        shown.wait_for("ready")
        shown.press(CTRL_C)
        shown.wait_for("stopped")
        shown.press(CTRL_C)
        assert shown.status() == 256 - signal.SIGINT  # killed by the signal


STOP = "import os, signal\ndef stop(): os.kill(os.getpid(), signal.SIGINT)\n"
DROPS = {
    "destructor": "class File:\n    def __del__(self): stop()\nFile()",  # and weakref's callbacks, which imports have
    "bare except": "try: stop()\nexcept: pass",  # as in the modules of Cython
    "twice": "try:\n    try: stop()\n    except: pass\n    time.sleep(600)\nexcept: pass",
}


@pytest.mark.parametrize("code", DROPS.values(), ids=DROPS)
def test_a_stop_that_python_or_a_library_drops_ends_the_script(code: str) -> None:
    script = f"{SCRIPT}{STOP}{code}\ntime.sleep(600)"
    done = subprocess.run(python(script), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "stopped\n")


CLEANUPS = {
    "finally": "try: stop()\nfinally: clean()",
    "context manager": "from contextlib import contextmanager\n@contextmanager\ndef work():\n    try: yield\n"
    "    finally: clean()\nwith work(): stop()",
    "fault in a cleanup": "try: stop()\nfinally:\n    try: raise OSError\n    except OSError: clean()",
    "exit handler": "import atexit\natexit.register(clean)\nstop()",
    "a slow end of the interpreter": "clean()\nclass Slow:\n    def __del__(self, sleep=time.sleep): sleep(2)\n"
    "slow = Slow()\nstop()",
    "thread": "import threading\nthreading.Thread(target=clean).start()\nstop()",
}


@pytest.mark.parametrize("code", CLEANUPS.values(), ids=CLEANUPS)
def test_a_stopped_script_cleans_up_to_the_end(code: str) -> None:
    clean = "def clean():\n    for _ in range(20): time.sleep(0.1)\n    print('clean')\n"
    script = f"{SCRIPT}{STOP}{clean}{code}\ntime.sleep(600)"
    done = subprocess.run(python(script), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "clean\n", "stopped\n")


def test_a_closed_terminal_ends_a_script(tmp_path: Path) -> None:
    with terminal(*python(WAIT), STARTED_BY=str(tmp_path)) as shown:
        shown.wait_for("working")
        assert len(processes_with(f"STARTED_BY={tmp_path}")) == 2
    wait_until_ended(f"STARTED_BY={tmp_path}")


def test_no_line_of_a_library_follows_the_line_of_a_stopped_script() -> None:
    script = SCRIPT + "import os, signal\ntry: os.kill(os.getpid(), signal.SIGINT)\n"
    script += "finally: print('a bar', file=sys.stderr)"
    done = subprocess.run(python(script), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "stopped\n")


def test_what_was_printed_before_ctrl_c_stays() -> None:
    script = SCRIPT + "import os, signal\nprint('a result')\nos.kill(os.getpid(), signal.SIGINT)"
    assert subprocess.run(python(script), capture_output=True, text=True, check=False).stdout == "a result\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_script_with_one_line_and_its_status(number: int) -> None:
    with subprocess.Popen(python(WAIT), stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "a line\n"  # a moving line is only for terminals
        process.send_signal(number)
        assert process.stderr.read() == "stopped\n"
    assert process.returncode == 128 + number


def test_a_script_goes_on_under_nohup() -> None:
    script = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)" + SCRIPT
    script += "import os; os.kill(os.getpid(), signal.SIGHUP); print('here')"
    assert subprocess.run(python(script), capture_output=True, text=True, check=False).stdout == "here\n"


@pytest.mark.parametrize("lines", [1, 100_000])
def test_a_closed_pipe_ends_a_script_quietly(lines: int) -> None:
    script = f"{SCRIPT}for n in range({lines}):\n    print('line', n)"
    with subprocess.Popen(python(script), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""


@pytest.mark.parametrize(("environ", "text"), [({}, "\x1b[31mred\x1b[0m"), ({"NO_COLOR": "1"}, "red")])
def test_colours_are_for_terminals_without_no_color(environ: dict[str, str], text: str) -> None:
    with terminal(*python(SCRIPT + "print(colour('red', 'red'))"), **environ) as shown:
        assert shown.status() == 0
    assert shown.screen == f"{text}\r\n"
