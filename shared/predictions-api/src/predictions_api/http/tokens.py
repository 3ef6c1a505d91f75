"""The tokens that clients may use: those of the settings, and those of a file, which is read again when it changes."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from predictions_api.configuration import BadConfiguration

if TYPE_CHECKING:
    from pathlib import Path

    from predictions_api.settings import Settings

LOG = logging.getLogger("predictions_api.tokens")


class Tokens:
    """Raises BadConfiguration if the file cannot be used at the start. Later the last tokens of the file stay valid."""

    def __init__(self, settings: Settings) -> None:
        self._fixed = [token.encode() for token in settings.tokens]
        self._path = settings.tokens_file
        self._state = self._file_state()
        self._from_file: list[bytes] = []
        if self._path is not None:
            try:
                self._from_file = _read(self._path)
            except (OSError, ValueError) as error:
                raise BadConfiguration(f"tokens_file: {error}; give a file with one token a line") from error

    def current(self) -> list[bytes]:
        """Return all tokens that are valid now."""
        if self._path is not None and (state := self._file_state()) != self._state:
            self._state = state
            try:
                self._from_file = _read(self._path)
                LOG.info("read %s: %d valid", self._path, len(self._from_file))
            except (OSError, ValueError) as error:
                LOG.error("the tokens are not changed: %s", error)
        return self._fixed + self._from_file

    def _file_state(self) -> tuple[int, int, int] | None:
        """Return what differs after each change of the file, its permissions too. None: it cannot be reached."""
        try:
            status = self._path.stat() if self._path is not None else None
        except OSError:
            return None
        return status and (status.st_ino, status.st_size, status.st_ctime_ns)


def _read(path: Path) -> list[bytes]:
    tokens = path.read_text("utf-8").replace(",", " ").split()
    if not tokens:
        raise ValueError(f"{path} has no token")
    return [token.encode() for token in tokens]
