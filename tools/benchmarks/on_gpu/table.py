"""The rows of a run: a line of JSON each, and one Markdown table of all, with ratios to an earlier run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from benchmarks.on_gpu.timing import SMALL

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.on_gpu.subject import Figures

NOTICE = "**There was no GPU. These rows show that the code runs on a CPU with small shapes, and nothing else.**"


class Rows:
    """A new file of rows, all with `about`: the device and the software. table.md next to it is their table.

    Raises FileExistsError if there is a file.
    """

    def __init__(self, path: Path, about: dict[str, str], earlier: Path | None = None) -> None:
        self.path = path
        self.table = path.with_name("table.md")
        self.about = about
        self.earlier = earlier
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(exist_ok=False)

    def add(self, model: str, what: str, figures: Figures) -> None:
        """Append a row to both files, and print it. Raises ValueError as `markdown` does."""
        with self.path.open("a") as file:
            file.write(json.dumps({**self.about, "model": model, "what": what, "figures": figures}) + "\n")
        self.table.write_text(markdown(self.path, self.earlier))
        print(f"{self.about['device']} | {model} | {what} | {_text(figures, {})}", flush=True)


def markdown(path: Path, earlier: Path | None = None) -> str:
    """Return a file's rows as a table; in brackets is each figure's ratio to that of the earlier file.

    Raises ValueError if only one of the two runs had a GPU.
    """
    rows, old_rows = _read(path), _read(earlier) if earlier else []
    if len({row["device"] == SMALL for row in (*rows, *old_rows)}) > 1:
        raise ValueError("one of the two runs had no GPU, so their figures cannot be compared")
    old = {(row["model"], row["what"]): row["figures"] for row in old_rows}
    lines = [NOTICE] if rows[0]["device"] == SMALL else []
    lines += [f"{row['device']}, {row['software']}." for row in (rows[0], *old_rows[:1])]
    lines += ["", "| device | model | what | figures |", "|---|---|---|---|"]
    for row in rows:
        figures = _text(row["figures"], old.get((row["model"], row["what"]), {}))
        lines.append(f"| {row['device']} | {row['model']} | {row['what']} | {figures} |")
    return "\n".join(lines) + "\n"


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _text(figures: Figures, earlier: Figures) -> str:
    parts = []
    for unit, value in figures.items():
        if isinstance(value, str | bool):
            parts.append(f"{unit}: {value}")
        else:
            ratio = f" ({value / float(earlier[unit]):.2f})" if earlier.get(unit) else ""
            parts.append(f"{value:.4g} {unit}{ratio}")
    return ", ".join(parts)
