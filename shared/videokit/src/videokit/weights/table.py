"""Weight files as data: the entries of a model's table, and the sources that they come from."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal
from urllib.parse import urlsplit

from videokit.weights.transfer import redact_url

LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True)
class HubFile:
    """A file of a Hugging Face model at one commit, `revision`, of 40 hex digits; branches and tags can move.

    `repo_type` is "dataset" for a file of a dataset.
    """

    repo: str
    revision: str
    name: str
    repo_type: Literal["model", "dataset"] = "model"

    def __post_init__(self) -> None:
        if not re.fullmatch("[0-9a-f]{40}", self.revision):
            raise ValueError(f"{self.repo}: revision {self.revision!r} is not a commit of 40 hex digits")

    def request(self) -> tuple[str, dict[str, str]]:
        """Return the URL, below HF_ENDPOINT, and the headers, with huggingface_hub's token (HF_TOKEN)."""
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # documented as public

        # huggingface_hub reads HF_ENDPOINT at import only.
        endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or None
        url = hf_hub_url(self.repo, self.name, repo_type=self.repo_type, revision=self.revision, endpoint=endpoint)
        return url, build_hf_headers(library_name="videokit")


@dataclass(frozen=True)
class Url:
    """A file at an https:// address, or http:// on this machine (for tests)."""

    url: str

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        secure = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK)
        if not (secure and parts.hostname):
            raise ValueError(f"{self.url!r} is not an https:// address")

    def request(self) -> tuple[str, dict[str, str]]:
        """Return the URL and no headers."""
        return self.url, {}


@dataclass(frozen=True)
class WeightFile:
    """One entry of a model's table: `path` below a weights directory, `size` in bytes, `sha256` in lower-case hex.

    Without a source the file can be fetched only from a mirror. If `or_folder`, a user's directory may have a folder of
    the file's name without suffix instead.
    """

    path: str
    source: HubFile | Url | None
    licence: str
    size: int | None = None
    sha256: str | None = None
    or_folder: bool = False

    def __post_init__(self) -> None:
        check_path(self.path)
        if self.sha256 is not None and not re.fullmatch("[0-9a-f]{64}", self.sha256):
            raise ValueError(f"{self.path}: sha256 {self.sha256!r} is not 64 lower-case hex digits")

    @property
    def pinned(self) -> str:
        """The source as text, which changes with its commit, and has no password."""
        if isinstance(self.source, HubFile):
            return f"{self.source.repo_type} {self.source.repo}@{self.source.revision} {self.source.name}"
        return redact_url(self.source.url) if self.source else ""


def check_path(path: str) -> None:
    """Raise ValueError for a path that is not relative or leaves its directory."""
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\\" in path:
        raise ValueError(f"{path!r} is not a relative path below a weights directory")
