"""Specification of script/setup, offline: pip's configuration names a folder of small wheels, which lock/ lists.

The package `uv` of the folder starts the uv of this environment.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from _bootstrap import install, run, uv_environ
from processes import processes_with, wait_until_ended
from pseudo_terminal import CTRL_C, terminal
from tree import ROOT

# With HELD_UV, a path, it first starts another process, as venv and pip do. That one makes a file at the path, and
# waits until the file is removed.
UV = f"""
import os, subprocess, sys
if "HELD_UV" in os.environ:
    wait = "import os, sys, time; open(sys.argv[1], 'w').close()\\nwhile os.path.exists(sys.argv[1]): time.sleep(0.02)"
    subprocess.run([sys.executable, "-c", wait, os.environ["HELD_UV"]])
os.execv({shutil.which("uv", path=str(Path(sys.executable).parent))!r}, ["uv", *sys.argv[1:]])
"""


STOPPED = r"setup: stopped by this error; the next run starts again; \d+ MB are free on this disk\n?$"


def write_wheel(folder: Path, name: str, version: str, text: str) -> str:
    """Write a wheel with one package, and return its line of a lock file."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}/__init__.py": f"version = {version!r}\n",
        f"{name}/__main__.py": text,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{file},,\n" for file in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(path, "w") as wheel:
        for file, content in files.items():
            wheel.writestr(file, content)
    return f"{name}=={version} \\\n    --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a tree with the scripts and a lock of three packages. Its path has a space."""
    root = tmp_path / "a tree"
    shutil.copytree(ROOT / "script", root / "script", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "tools", root / "tools", ignore=lambda _, names: [n for n in names if not n.endswith(".py")])
    (root / "lock").mkdir()
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    uv = write_wheel(wheels, "uv", "0.13.9", UV)
    (root / "lock" / "uv.txt").write_text(uv)
    (root / "lock" / "packages.txt").write_text(uv + write_wheel(wheels, "alpha", "1.0", ""))
    (root / "lock" / "torch.txt").write_text(write_wheel(wheels, "torch", "2.13.0", "").replace("==", "==="))
    (root / "lock" / "torch-cpu.txt").write_text(write_wheel(wheels, "torch", "2.13.0+cpu", ""))
    (tmp_path / "pip.conf").write_text(f"[global]\nno-index = true\nfind-links =\n    {wheels}\n")
    return root


@pytest.fixture(scope="module")
def only_pip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an environment that has only pip."""
    path = tmp_path_factory.mktemp("only-pip") / ".venv"
    subprocess.run([sys.executable, "-m", "venv", path], check=True)
    return path


@pytest.fixture
def older(checkout: Path, only_pip: Path) -> Path:
    """Return the tree with an environment of an older lock, so that only packages are missing."""
    shutil.copytree(only_pip, checkout / ".venv", symlinks=True)
    (checkout / ".venv" / "made-from").write_text("an older lock")
    return checkout


def environment(checkout: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_"))}
    temporary = checkout.parent
    environ = {**kept, "PIP_CONFIG_FILE": str(temporary / "pip.conf"), "PIP_RETRIES": "0"}
    environ |= {"UV_CACHE_DIR": str(temporary / "cache"), "PIP_NO_CACHE_DIR": "1", "XDG_CONFIG_DIRS": str(temporary)}
    return {**environ, "HOME": str(temporary)}


def start(checkout: Path, python: str | Path = sys.executable, **variables: str) -> subprocess.Popen[str]:
    environ = {**environment(checkout), **variables}
    command = [python, checkout / "script" / "setup"]
    return subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True, start_new_session=True)


def set_up(checkout: Path, python: str | Path = sys.executable, **variables: str) -> tuple[int, str]:
    """Run script/setup, and return its status and what it printed."""
    with start(checkout, python, **variables) as process:
        printed = process.communicate()[1]
        return process.returncode, printed


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def version_of(checkout: Path, name: str) -> str:
    command = [checkout / ".venv" / "bin" / "python", "-c", f"import {name}; print({name}.version)"]
    return subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize(("driver", "version"), [(False, "2.13.0+cpu"), (True, "2.13.0")])
def test_torch_is_the_build_for_cpus_unless_there_is_an_nvidia_driver(older: Path, driver: bool, version: str) -> None:
    programs = older / "programs"
    programs.mkdir()
    if driver:
        (programs / "nvidia-smi").write_text("#!/bin/sh\n")
        (programs / "nvidia-smi").chmod(0o755)
    assert set_up(older, PATH=f"{programs}:{os.environ['PATH']}")[0] == 0
    assert version_of(older, "torch") == version
    assert version_of(older, "alpha") == "1.0"


def test_without_a_build_for_cpus_the_other_build_is_installed(older: Path) -> None:
    next((older.parent / "wheels").glob("torch-2.13.0+cpu-*")).unlink()
    assert set_up(older)[0] == 0
    assert version_of(older, "torch") == "2.13.0"


def test_another_file_than_the_locked_one_is_refused_and_the_next_run_mends_it(older: Path) -> None:
    wheels = older.parent / "wheels"
    original = (wheels / "alpha-1.0-py3-none-any.whl").read_bytes()
    write_wheel(wheels, "alpha", "1.0", "print('not the locked file')")
    code, printed = set_up(older)
    assert code == 1
    assert re.search("alpha.*\n.*hash mismatch|hash mismatch.*alpha", printed, re.IGNORECASE)
    assert re.search(STOPPED, printed)
    (wheels / "alpha-1.0-py3-none-any.whl").write_bytes(original)
    assert set_up(older)[0] == 0
    assert version_of(older, "alpha") == "1.0"


def test_the_next_run_repairs_an_interrupted_one(checkout: Path) -> None:
    held = checkout.parent / "held"
    process = start(checkout, HELD_UV=str(held))
    wait_until(held.exists)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (checkout / ".venv" / "made-from").exists()
    assert set_up(checkout, checkout / ".venv" / "bin" / "python")[0] == 0  # with .venv activated
    assert version_of(checkout, "alpha") == "1.0"


def test_a_set_up_waits_for_what_a_stopped_one_has_left_running(checkout: Path) -> None:
    mark, held = f"PIP_CONFIG_FILE={checkout.parent}", checkout.parent / "held"
    stopped = start(checkout, HELD_UV=str(held))
    wait_until(held.exists)
    stopped.terminate()
    assert stopped.communicate()[1].splitlines()[-1] == "stopped"
    assert processes_with(mark)
    with start(checkout) as second:
        waits = re.compile(rf"-> FLOCK +ADVISORY +WRITE {second.pid} ")  # proc_locks(5)
        try:
            wait_until(lambda: second.poll() is not None or waits.search(Path("/proc/locks").read_text()))
            assert second.poll() is None
        finally:
            held.unlink()
        assert second.wait() == 0
    assert version_of(checkout, "alpha") == "1.0"


def test_a_set_up_that_waits_for_another_one_shows_that_and_ends_at_ctrl_c(
    older: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment(older).items():
        monkeypatch.setenv(name, value)
    held = older.parent / "held"
    first = start(older, HELD_UV=str(held))
    try:
        wait_until(held.exists)
        with terminal(sys.executable, older / "script" / "setup", NO_COLOR="1") as shown:
            shown.wait_for("setting up")
            shown.press(CTRL_C)
            assert shown.status() == 130
        assert shown.lines() == ["stopped", ""]
    finally:
        os.killpg(first.pid, signal.SIGKILL)
        first.communicate()


def test_ctrl_c_ends_a_set_up_with_one_line(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment(checkout).items():
        monkeypatch.setenv(name, value)
    temporary = checkout.parent / "temporary"
    temporary.mkdir()
    with terminal(sys.executable, checkout / "script" / "setup", NO_COLOR="1", TMPDIR=str(temporary)) as shown:
        shown.wait_for("setting up")
        wait_until((checkout / ".venv" / "bin" / "python").exists)  # pip is being installed
        shown.press(CTRL_C)
        assert shown.status() == 130
    assert shown.lines()[1:] == ["stopped", ""]
    wait_until_ended(f"PIP_CONFIG_FILE={checkout.parent}")
    assert list(temporary.iterdir()) == []


def test_of_two_runs_at_once_one_does_the_work(checkout: Path) -> None:
    outputs = [process.communicate()[1] for process in [start(checkout), start(checkout)]]
    assert sorted(output.count("installing") for output in outputs) == [0, 1]
    assert version_of(checkout, "alpha") == "1.0"


def test_a_package_that_is_no_longer_locked_is_removed(older: Path) -> None:
    assert set_up(older)[0] == 0
    lock = older / "lock" / "packages.txt"
    lock.write_text(lock.read_text().partition("alpha==")[0])
    assert set_up(older, older / ".venv" / "bin" / "python")[0] == 0  # with .venv activated
    with pytest.raises(subprocess.CalledProcessError):
        version_of(older, "alpha")


def test_without_an_index_the_address_is_named(older: Path) -> None:
    (older.parent / "pip.conf").write_text("[global]\nindex-url = http://127.0.0.1:9/simple\n")  # port "discard"
    code, printed = set_up(older)
    assert code == 1
    assert "127.0.0.1" in printed
    assert "0.13.9" in printed
    assert re.search(STOPPED, printed)


def test_what_stopped_a_set_up_is_printed() -> None:
    with pytest.raises(SystemExit, match=f"^No space left on device\n{STOPPED}"):
        run("sh", "-c", "echo No space left on device >&2; exit 1")


def test_an_older_python_names_the_command_for_a_newer_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("_bootstrap.STAMP", tmp_path / "made-from")
    monkeypatch.setattr(sys, "version_info", (3, 10))
    with pytest.raises(SystemExit, match=r"run once: python3\.11 "):
        install()


def test_pips_settings_become_uvs_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_"))]:
        monkeypatch.delenv(name)
    (tmp_path / "pip.conf").write_text(
        "[global]\nindex-url = https://a.example/simple\ncert = /etc/a.pem\nfind-links = /wheels /more\n"
        "[install]\nextra-index-url =\n    https://b.example/simple\n    https://c.example/simple\n"
        "trusted-host = b.example\n"
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    monkeypatch.setenv("XDG_CONFIG_DIRS", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PIP_CERT", "/etc/b.pem")  # a variable wins over a file
    monkeypatch.setenv("SSL_CERT_FILE", "/etc/of-the-user.pem")
    environ = uv_environ()
    assert {name: environ[name] for name in environ if name.startswith("UV_") or name == "SSL_CERT_FILE"} == {
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_INDEX_URL": "https://a.example/simple",
        "UV_EXTRA_INDEX_URL": "https://b.example/simple https://c.example/simple",
        "UV_FIND_LINKS": "/wheels,/more",
        "UV_INSECURE_HOST": "b.example",
        "SSL_CERT_FILE": "/etc/b.pem",
    }
