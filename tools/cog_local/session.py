"""Run a command in place of this process. Its process group ends, and a directory is removed, when a pipe closes.

    python session.py PIPE DIRECTORY COMMAND ...

PIPE is the descriptor of the read end of a pipe. Only the parent has the write end, so the pipe closes when the parent
ends for any reason, also by SIGKILL. A watcher in the group of the command waits for that.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys


def run(pipe: int, directory: str, command: list[str]) -> None:
    watcher = [sys.executable, "-I", "-S", __file__, str(pipe), directory]
    null = subprocess.DEVNULL  # stdout is the command's, so that its reader sees when the watcher has ended too
    subprocess.Popen(watcher, pass_fds=[pipe], stdin=null, stderr=null)
    os.set_inheritable(pipe, False)
    os.execv(command[0], command)


def watch(pipe: int, directory: str) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while os.read(pipe, 4096):
        pass
    read_end, write_end = os.pipe()
    child = os.fork()
    os.setpgid(child, child)  # in both processes: the child has left the group before the group is killed
    if child == 0:
        os.close(write_end)
        os.read(read_end, 1)  # ends when the group has ended, as the watcher has the write end
        shutil.rmtree(directory, ignore_errors=True)
        return
    os.killpg(0, signal.SIGKILL)  # also ends this process


if __name__ == "__main__":
    if len(sys.argv) > 3:
        run(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
    else:
        watch(int(sys.argv[1]), sys.argv[2])
