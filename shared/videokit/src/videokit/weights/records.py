"""The record of downloads without a published hash: size and SHA-256 of the first, which later ones must equal.

It is the file `downloads.json` in a cache, with one entry for each path of a weights table. An entry counts only for
the source that the table has today, because a new revision has new bytes.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from videokit.errors import WeightsError
from videokit.files import atomic_write
from videokit.weights.download import Expected, locked

if TYPE_CHECKING:
    from pathlib import Path

NAME = "downloads.json"


class Records:
    """The record of one directory of downloads."""

    def __init__(self, directory: Path) -> None:
        self.file = directory / NAME

    def get(self, path: str, source: str) -> Expected | None:
        """Return size and hash of the first download of `path` from `source`, or None if there was none.

        Raises WeightsError if the file is not a record.
        """
        entry = self._read().get(path)
        if entry is None or entry["source"] != source:
            return None
        return Expected(entry["size"], entry["sha256"], f"the first download, recorded in {self.file}")

    def add(self, path: str, source: str, size: int, sha256: str) -> None:
        """Record a download; other processes may record theirs at the same time."""
        with locked(self.file, f"{self.file}: another process is writing it"):
            entries = self._read() | {path: {"source": source, "size": size, "sha256": sha256}}
            with atomic_write(self.file) as part:
                part.write_text(json.dumps(entries, indent=2, sort_keys=True) + "\n")

    def _read(self) -> dict[str, dict[str, Any]]:
        try:
            entries: dict[str, dict[str, Any]] = json.loads(self.file.read_text())
            for entry in entries.values():
                Expected(int(entry["size"]), str(entry["sha256"]), str(entry["source"]))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
            raise WeightsError(f"{self.file} is not a record of downloads ({error}); remove it") from None
        return entries
