"""The environment of all scripts, .venv: each starts with `in_environment()`. Supports Python 3.8."""

import ast
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
from terminal import SIGNALS, MovingLine, end_quietly
from tree import ROOT, models

PYTHON = ROOT / ".venv" / "bin" / "python"
STAMP = ROOT / ".venv" / "made-from"  # has the fingerprint of what is installed
LOCK = os.open(__file__, os.O_RDONLY)  # stays locked until all processes that have it as their stdin have ended
CPU_BUILDS = "--index=https://download.pytorch.org/whl/cpu"
OPTIONS = ("index-url", "extra-index-url", "find-links", "trusted-host")  # the same names in pip and uv
VARIABLES = {"cert": "SSL_CERT_FILE", "proxy": "ALL_PROXY", "default-timeout": "UV_HTTP_TIMEOUT"}
REASONS = {"No space left": "the disk is full"}
REASONS["from versions: none|error sending request"] = "no package index with the locked packages can be reached"
REASONS["ensurepip is not|No module named venv"] = "venv is missing; on Debian: sudo apt install python3-venv"


def in_environment() -> None:
    """Put the models' packages on the path. In a Python outside the environment, run the script again in it.

    From here on, Ctrl-C and other signals end the script with one line.
    """
    end_quietly()
    if Path(sys.prefix).resolve() == (ROOT / ".venv").resolve():
        sys.path[:0] = [str(ROOT / model) for model in models()]
        return
    set_up()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # without bytecode files, every start would compile torch again
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # until the new Python calls `end_quietly`
    os.execv(PYTHON, [str(PYTHON), *sys.argv])


def fingerprint() -> str:
    """Return a checksum of lock/, of this file and of the repository's path."""
    files = [Path(__file__), *sorted(ROOT.glob("lock/*.txt"))]
    return str(zlib.crc32(b"".join([bytes(ROOT), *(path.read_bytes() for path in files)])))


def is_stale() -> bool:
    """Return whether the environment has to be made or updated."""
    return not (PYTHON.exists() and STAMP.exists() and STAMP.read_text() == fingerprint())


def set_up() -> None:
    """Make or update the environment if it is stale."""
    try:
        fcntl.flock(LOCK, fcntl.LOCK_EX)  # a second set-up at the same time waits, and then has nothing to do
        if is_stale():
            print("setup: installing the packages of lock/ into .venv", file=sys.stderr, flush=True)
            with MovingLine("setting up"):
                install(fingerprint())
    except OSError as error:
        sys.exit(f"setup: {error}; the next run starts again")


def install(wanted: str) -> None:
    if not (PYTHON.exists() and STAMP.exists()):  # a new environment, or one whose set-up was interrupted
        if sys.version_info < (3, 11):  # noqa: UP036 - the Python of this machine
            sys.exit(f"setup: Python 3.11+ is required; if you have it, run once: python3.11 {sys.argv[0]}")
        run(getattr(sys, "_base_executable", sys.executable), "-m", "venv", "--clear", ROOT / ".venv")
    STAMP.unlink(missing_ok=True)
    (uv,) = re.findall(r"^uv==.*(?:\n .*)*", (ROOT / "lock" / "packages.txt").read_text(), re.MULTILINE)
    STAMP.with_name("uv.txt").write_text(uv)
    run(PYTHON, "-m", "pip", "install", "--require-hashes", "-r", STAMP.with_name("uv.txt"))
    sync = [PYTHON, "-m", "uv", "pip", "sync", "--python", PYTHON, "--require-hashes", *uv_options()]
    sync.append("lock/packages.txt")
    torch = ["lock/torch.txt"]  # CUDA's build, and macOS's. Without a driver, it is the last choice.
    if not shutil.which("nvidia-smi"):
        choices = [["lock/torch-cpu.txt"], ["lock/torch-cpu.txt", CPU_BUILDS]]
        torch = next((choice for choice in choices if run(*sync, *choice, "--dry-run", check=False)), torch)
    run(*sync, *torch)
    packages = next((ROOT / ".venv").glob("lib/python3*/site-packages"))
    (packages / "this-tree.pth").write_text("\n".join(map(str, [*ROOT.glob("shared/*/src"), ROOT / "tools"])))
    STAMP.write_text(wanted)


def run(*command: object, check: bool = True) -> bool:
    """Return whether a command succeeds. With `check`, raise OSError with the reason if it fails."""
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=ROOT, stdin=LOCK, capture_output=True, text=True, check=False)
    if check and done.returncode:
        text = done.stdout + done.stderr + ("No space left" if shutil.disk_usage(ROOT).free < 2**26 else "")
        lines = [line.strip() for line in done.stderr.splitlines() if not line.startswith("WARNING")]
        raise OSError(next((reason for words, reason in REASONS.items() if re.search(words, text)), ": ".join(lines)))
    return done.returncode == 0


def uv_options() -> "list[str]":
    """Return pip's configuration as options of uv, which does not read it. What has no option becomes a variable.

    uv takes a package from the first index that has its name, and pip from any. The hashes make pip's way safe.
    """
    listed = subprocess.run([PYTHON, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True).stdout
    settings: dict[str, str] = {}
    for section in ("global", "install", ":env:"):  # a later one wins
        settings.update(re.findall(rf"^{section}\.([\w-]+)=(.*)$", listed, re.MULTILINE))
    settings = {name: ast.literal_eval(value) for name, value in settings.items()}
    os.environ.update({variable: settings[name] for name, variable in VARIABLES.items() if name in settings})
    options = [f"--{name}={word}" for name in OPTIONS for word in settings.get(name, "").split()]
    options += ["--no-index"] * (settings.get("no-index", "").lower() in ("1", "true", "yes", "on"))
    return ["--index-strategy=unsafe-best-match", *options]
