"""The environment of all scripts, .venv: each starts with `in_environment()`. Supports Python 3.8."""

import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import zlib
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))
from terminal import SIGNALS, MovingLine
from tree import ROOT, models

PYTHON = ROOT / ".venv" / "bin" / "python"
STAMP = ROOT / ".venv" / "made-from"  # has the fingerprint of what is installed
LOCK = os.open(__file__, os.O_RDONLY)  # stays locked until all processes that have it as their stdin have ended
CPU_BUILDS = "--index=https://download.pytorch.org/whl/cpu"
UV_VARIABLES = {"index-url": "UV_INDEX_URL", "extra-index-url": "UV_EXTRA_INDEX_URL", "find-links": "UV_FIND_LINKS"}
UV_VARIABLES.update({"no-index": "UV_NO_INDEX", "trusted-host": "UV_INSECURE_HOST", "cert": "SSL_CERT_FILE"})
UV_VARIABLES.update({"proxy": "ALL_PROXY", "default-timeout": "UV_HTTP_TIMEOUT"})


def in_environment() -> None:
    """Make the models' packages importable. A Python outside .venv runs the script again in .venv."""
    set_up()
    if Path(sys.prefix).resolve() != (ROOT / ".venv").resolve():
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # without bytecode files, every start would compile torch again
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # until the new Python calls `script_parser`
        os.execv(PYTHON, [str(PYTHON), *sys.argv])
    sys.path[:0] = [str(ROOT / model) for model in models()]


def is_up_to_date() -> bool:
    return PYTHON.exists() and STAMP.exists() and STAMP.read_text() == fingerprint()


def fingerprint() -> str:
    """Return a checksum of lock/, of this file and of the repository's path."""
    files = [Path(__file__), *sorted(ROOT.glob("lock/*.txt"))]
    return str(zlib.crc32(b"".join([bytes(ROOT), *(path.read_bytes() for path in files)])))


def set_up() -> None:
    """Make .venv from lock/, or update it. Does nothing if it is up to date."""
    if is_up_to_date():
        return
    with MovingLine("setting up") as line:
        fcntl.flock(LOCK, fcntl.LOCK_EX)  # a second set-up at the same time waits, and then has nothing to do
        if not is_up_to_date():
            line.print("setup: installing the packages of lock/ into .venv")
            install()
    fcntl.flock(LOCK, fcntl.LOCK_UN)


def install() -> None:
    if not (PYTHON.exists() and STAMP.exists()):  # a new environment, or one whose set-up was interrupted
        if sys.version_info < (3, 11):  # noqa: UP036 - the Python of this machine
            sys.exit(f"setup: Python 3.11+ is required; if you have it, run once: python3.11 {sys.argv[0]}")
        run(sys.executable, "-m", "venv", "--clear", ROOT / ".venv")
    STAMP.unlink(missing_ok=True)
    run(PYTHON, "-m", "pip", "install", "--require-hashes", "-r", "lock/uv.txt")
    environ = uv_environ()
    sync = [PYTHON, "-m", "uv", "pip", "sync", "--python", PYTHON, "--require-hashes", "lock/packages.txt"]
    torch = ["lock/torch.txt"]  # CUDA's build, and macOS's. Without a driver, it is the last choice.
    if not shutil.which("nvidia-smi"):
        choices = [["lock/torch-cpu.txt"], ["lock/torch-cpu.txt", CPU_BUILDS]]
        torch = next((each for each in choices if run(*sync, *each, "--dry-run", env=environ, check=False)), torch)
    run(*sync, *torch, env=environ)
    packages = next((ROOT / ".venv").glob("lib/python3*/site-packages"))
    (packages / "this-tree.pth").write_text("\n".join(map(str, [*ROOT.glob("shared/*/src"), ROOT / "tools"])))
    STAMP.write_text(fingerprint())


def run(*command: object, env: "dict[str, str] | None" = None, check: bool = True) -> bool:
    """Return whether a command succeeds. With `check`, exit with what it printed if it fails."""
    words = [str(word) for word in command]
    env = {**(env or os.environ), "TMPDIR": str(ROOT / ".venv")}  # where the next set-up removes what Ctrl-C leaves
    done = subprocess.run(words, cwd=ROOT, env=env, stdin=LOCK, capture_output=True, text=True, check=False)
    if check and done.returncode:
        free = f"{shutil.disk_usage(ROOT).free / 1e6:.0f} MB are free on this disk"
        sys.exit(f"{done.stdout}{done.stderr}setup: stopped by this error; the next run starts again; {free}")
    return done.returncode == 0


def uv_environ() -> "dict[str, str]":
    """Return the variables of this process and pip's configuration as variables of uv, which does not read it.

    uv takes a package from the first index that has its name, and pip from any. The hashes make pip's way safe.
    """
    listed = subprocess.run([PYTHON, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True).stdout
    environ = {**os.environ, "UV_INDEX_STRATEGY": "unsafe-best-match"}
    for section in ("global", "install", ":env:"):  # a later one wins
        for name, value in re.findall(rf"^{section}\.({'|'.join(UV_VARIABLES)})='(.+)'$", listed, re.MULTILINE):
            environ[UV_VARIABLES[name]] = ("," if name == "find-links" else " ").join(value.replace("\\n", " ").split())
    return environ
