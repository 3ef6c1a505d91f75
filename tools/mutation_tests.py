"""Deliberate errors in the models, each of which the tests must detect.

A mutation leaves a program that runs: another noise schedule, swapped prompts, norms of another scope, no guidance.
The tests are those of what the demo weights show, and those of the model's sampler and network.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tree import ROOT

NOT_COPIED = shutil.ignore_patterns(".*", "__pycache__", "wheels", "node_modules")
FAILED_TEST = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)
MEANING = "tests/end_to_end/test_meaning.py"
TESTS = {
    "animate-diff": (
        f"{MEANING}::TestAnimateDiff", "tests/animate_diff/test_pipeline.py", "tests/animate_diff/test_unet.py",
    ),
    "sd-animation": (f"{MEANING}::TestSdAnimation", "tests/sd_animation/test_sampler.py"),
    "zeroscope": (
        f"{MEANING}::TestZeroscope", "tests/zeroscope/test_sampler.py", "tests/zeroscope/test_pipeline.py",
    ),
}  # fmt: skip


class MutationError(Exception):
    """The tests cannot run, or fail without a mutation, or a mutation's text is not in its file exactly once."""


ANIMATE_DIFF = "animate-diff/animate_diff/pipeline.py"
SD_ANIMATION = "sd-animation/sd_animation/pipeline.py"
ZEROSCOPE = "zeroscope/zeroscope/pipeline.py"
ZEROSCOPE_SAMPLER = "zeroscope/zeroscope/sampler.py"
PROMPTS = "[inputs.negative_prompt, inputs.prompt] if", "[inputs.prompt, inputs.negative_prompt] if"
NO_GUIDANCE = "noise_pred_uncond + guidance_scale * (noise_pred_text - noise_pred_uncond)", "noise_pred_text"
MUTATIONS = {  # name: (file, original, replacement)
    "animate-diff-schedule": (ANIMATE_DIFF, 'beta_schedule="linear"', 'beta_schedule="scaled_linear"'),
    "animate-diff-prompts": (ANIMATE_DIFF, *PROMPTS),
    "animate-diff-norms": (ANIMATE_DIFF, "NUM_FRAMES if motion.norms_over_frames else 1", "1"),
    "animate-diff-guidance": (ANIMATE_DIFF, *NO_GUIDANCE),
    "sd-animation-schedule": (SD_ANIMATION, 'beta_schedule="scaled_linear"', 'beta_schedule="linear"'),
    "sd-animation-prompts": (
        SD_ANIMATION,
        "noise_pred_uncond, noise_pred_text = ",
        "noise_pred_text, noise_pred_uncond = ",
    ),
    "sd-animation-guidance": (SD_ANIMATION, *NO_GUIDANCE),
    "zeroscope-schedule": (ZEROSCOPE_SAMPLER, '"beta_schedule", ', ""),
    "zeroscope-prompts": (ZEROSCOPE, *PROMPTS),
    "zeroscope-guidance": (ZEROSCOPE_SAMPLER, *NO_GUIDANCE),
}


def undetected(names: list[str]) -> list[str]:
    """Apply mutations one at a time in a copy of the tree, print the failing tests, and return what none detects."""
    with tempfile.TemporaryDirectory() as directory:
        tree = Path(directory) / "tree"
        shutil.copytree(ROOT, tree, ignore=_not_copied)
        for model in sorted({_model_of(name) for name in names}):
            if failed := failing_tests(tree, model):
                raise MutationError(f"{model}: tests that fail without a mutation: {', '.join(failed)}")
        return [name for name in names if not is_detected(tree, name)]


def is_detected(tree: Path, name: str) -> bool:
    """Return whether a test fails with a mutation; print its name."""
    file, original, replacement = MUTATIONS[name]
    text = (tree / file).read_text()
    if (count := text.count(original)) != 1:
        raise MutationError(f"{name}: {file} must have {original!r} once, but has it {count} times")
    (tree / file).write_text(text.replace(original, replacement))
    failed = failing_tests(tree, _model_of(name), "-x")
    (tree / file).write_text(text)
    print(f"{name}: {', '.join(failed) or 'UNDETECTED'}", flush=True)
    return bool(failed)


def failing_tests(tree: Path, model: str, *options: str) -> list[str]:
    """Run a model's tests in a tree and return the names of those that fail."""
    sources = os.pathsep.join(str(path) for path in tree.glob("shared/*/src"))  # precede those of this tree
    environ = {**os.environ, "PYTHONPATH": sources, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, *TESTS[model]]
    completed = subprocess.run(command, cwd=tree, env=environ, capture_output=True, text=True, check=False)
    failed = FAILED_TEST.findall(completed.stdout)
    if completed.returncode not in (0, 1) or bool(completed.returncode) != bool(failed):
        raise MutationError(f"pytest ended with status {completed.returncode}:\n{completed.stdout}{completed.stderr}")
    return failed


def _model_of(name: str) -> str:
    return MUTATIONS[name][0].partition("/")[0]


def _not_copied(directory: str, names: list[str]) -> set[str]:
    """Return what a copy of a directory leaves out: caches, and the weights in a model's directory."""
    return NOT_COPIED(directory, names) | ({"weights"} if "cog.yaml" in names else set())
