"""Where the repository is, and which models it has. Uses the standard library only."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def models() -> list[str]:
    """Return the names of the models, sorted: the directories in the root that have a cog.yaml."""
    return sorted(path.parent.name for path in ROOT.glob("*/cog.yaml"))


def package_of(model: str) -> str:
    """Return the name of a model's Python package: `animate_diff` for `animate-diff`."""
    return model.replace("-", "_")
