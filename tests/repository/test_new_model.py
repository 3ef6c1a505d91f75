"""Specification of script/new-model: the models that it makes pass the checks of all models as they stand."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from tree import ROOT, package_of
from two_models import make_environment

MODELS = {"hello-clip": [], "plain": ["--without-torch"]}
COMMON = [  # tests that every model has to pass; an image is the quickest without torch
    *(f"tests/repository/test_{name}.py" for name in ("rules", "layers", "readmes", "examples")),
    "tests/tools/cog_local/test_schema.py",
    "tests/tools/cog_local/test_wheel.py::test_the_committed_wheel_is_built_from_the_sources_of_this_tree",
    "tests/end_to_end/test_directory_alone.py::test_a_models_directory_alone_makes_a_clip[plain]",
]
OTHERS = "not animate-diff and not sd-animation and not zeroscope"  # models, in names of parametrized tests


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of this tree, in a path with a space, in which the script has made two models."""
    root = tmp_path_factory.mktemp("new models") / "with space"
    listed = subprocess.check_output(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, text=True)
    for name in listed.splitlines():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    make_environment(root)
    for model, options in MODELS.items():
        run(root, "script/new-model", model, *options)
    run(root, "git", "init", "-q")
    run(root, "git", "add", ".")
    run(root, "git", "-c", "user.name=test", "-c", "user.email=test@example.com", "commit", "-qm", "Make two models")
    return root


def run(tree: Path, *command: str | Path) -> None:
    """Run a command in a tree; a failure shows what it printed."""
    done = subprocess.run(command, cwd=tree, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_new_models_pass_the_linters(tree: Path) -> None:
    for check in (["ruff", "check", "."], ["ruff", "format", "--check", "."], ["yamllint", "--strict", *MODELS]):
        run(tree, ".venv/bin/python", "-m", *check)


def test_new_models_pass_the_tests_of_every_model_and_their_own(tree: Path) -> None:
    own = [f"tests/{package_of(model)}" for model in MODELS]
    run(tree, ".venv/bin/python", "-m", "pytest", "-q", "-k", OTHERS, *COMMON, *own)


def test_a_new_model_is_served_by_the_predictions_api(tree: Path, tmp_path: Path) -> None:
    command = [tree / "script" / "serve", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            url = process.stdout.readline().partition(" is ready at ")[2].split()[0]
            run(tree, "script/predict", "plain", "--server", url, "-i", "num_frames=3", "-o", tmp_path / "clip.mp4")
            assert (tmp_path / "clip.mp4").stat().st_size > 0
        finally:
            process.terminate()


def test_a_model_that_cannot_be_completed_leaves_nothing(changed_repository: Path) -> None:
    (changed_repository / "shared" / "videokit" / "pyproject.toml").unlink()  # which its wheel needs
    done = subprocess.run([changed_repository / "script" / "new-model", "hello-clip"], check=False)
    assert done.returncode == 1
    assert not (changed_repository / "hello-clip").exists()
    assert not (changed_repository / "tests" / "hello_clip").exists()


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("one-file", "exists"),
        ("Hello", "lower-case letters"),
        ("hello_clip", "lower-case letters"),
        ("../hello", "lower-case letters"),
        ("a" * 300, "lower-case letters"),
        ("class", "a word or a module of Python"),
        ("torch", "a word or a module of Python"),
    ],
)
def test_a_name_that_no_model_can_have_is_refused_in_one_line(repository: Path, name: str, fault: str) -> None:
    command = [repository / "script" / "new-model", name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert fault in done.stderr.splitlines()[-1]
