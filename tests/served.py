"""A model behind Cog's own server, as end-to-end tests share it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cog_server import CogServer


@dataclass
class Served:
    """A running server, the directory for its temporary files, and the lines that it logged."""

    server: CogServer
    temporary: Path
    log: list[str]

    def files(self) -> list[Path]:
        """Every file that the server and its worker have in their temporary directory."""
        return [path for path in self.temporary.rglob("*") if not path.is_dir()]
