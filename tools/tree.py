"""The repository's root and models, and the parser of scripts' arguments. Supports Python 3.8, needs no package."""

from __future__ import annotations

import argparse
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def models(having: str = "cog.yaml") -> list[str]:
    """Return the names of the models, sorted: directories in the root with a cog.yaml, and with `having`, a glob."""
    return sorted(path.parent.name for path in ROOT.glob("*/cog.yaml") if any(path.parent.glob(having)))


def package_of(model: str) -> str:
    """Return the name of a model's Python package: `animate_diff` for `animate-diff`."""
    return model.replace("-", "_")


def model_name(text: str) -> str:
    """Return the name of a model, from an argument for argparse, which may be a path with a slash at its end."""
    name = text.rstrip("/")
    if name not in models():
        raise argparse.ArgumentTypeError(f"{text!r} is not a model; models: {', '.join(models())}")
    return name


def script_parser(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser whose help is a script's docstring."""
    return argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
