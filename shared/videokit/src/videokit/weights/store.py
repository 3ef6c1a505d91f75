"""Weight files as data, and the store that finds them on this machine or fetches them.

Each model has a table of WeightFile. The store looks for a path in its directories, then in the cache. It downloads
missing files into the cache (`videokit.weights.download`). A file has the same path below every directory, the cache
and a mirror: models that share a file use one path, and different files have different paths. The store does not read
the content of weight files.
"""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote, urlsplit

from videokit.errors import WeightsError, WeightsMissing
from videokit.weights.download import check_file, download, ensure_disk_space, remaining_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

TRUE = ("1", "true", "yes", "on")
PICKLE_SUFFIXES = (".bin", ".ckpt")
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

    Without a source the file can be fetched only from a mirror.
    """

    path: str
    source: HubFile | Url | None
    licence: str
    size: int | None = None
    sha256: str | None = None

    def __post_init__(self) -> None:
        _check_path(self.path)
        if self.sha256 is not None and not re.fullmatch("[0-9a-f]{64}", self.sha256):
            raise ValueError(f"{self.path}: sha256 {self.sha256!r} is not 64 lower-case hex digits")


class WeightStore:
    """The files of one table on one machine.

    `directories` are searched in order, and their files are not verified: a user's own file may differ from the
    table's. Downloads are verified and stored in `cache`. Without a cache, or if `offline`, no connection is opened.
    `fetch_command` is the advice in messages about missing files; their paths replace `{paths}`.
    """

    def __init__(
        self,
        files: Iterable[WeightFile],
        *,
        directories: Sequence[Path],
        cache: Path | None,
        mirror: str | None = None,
        offline: bool = False,
        fetch_command: str = "script/weights MODEL {paths}",
    ) -> None:
        self.files: dict[str, WeightFile] = {}
        for file in files:
            if file.path in self.files:
                raise ValueError(f"{file.path} is in the weights table twice")
            self.files[file.path] = file
        self.directories = tuple(directories)
        self.cache = cache
        self.mirror = mirror and mirror.rstrip("/")
        self.offline = offline
        self.fetch_command = fetch_command

    @classmethod
    def from_environment(
        cls,
        files: Iterable[WeightFile],
        model: str,
        model_directory: Path,
        environ: Mapping[str, str] = os.environ,
    ) -> WeightStore:
        """Return the store that WEIGHTS, WEIGHTS_CACHE, WEIGHTS_MIRROR and WEIGHTS_OFFLINE select.

        WEIGHTS="full" (the default) searches the model's `weights/`, then the cache, then downloads. A directory is
        searched before these. "demo" searches the model's `demo-weights/` alone. Raises WeightsError for a directory
        that does not exist, or a mirror that is not an https:// address.
        """
        choice = environ.get("WEIGHTS") or "full"
        if choice == "demo":
            demo = model_directory / "demo-weights"
            return cls(files, directories=[demo], cache=None, fetch_command=f"git restore {model}/demo-weights")
        directories = [model_directory / "weights"]
        if choice != "full":
            directory = Path(choice).expanduser()
            if not directory.is_dir():
                raise WeightsError(f"WEIGHTS={choice} is not a directory; give one that exists, or full, or demo")
            directories.insert(0, directory)
        user_cache = Path(environ.get("XDG_CACHE_HOME") or "~/.cache") / "videokit"
        mirror = environ.get("WEIGHTS_MIRROR") or None
        try:
            if mirror is not None:
                Url(mirror)
        except ValueError as error:
            raise WeightsError(f"WEIGHTS_MIRROR: {error}") from None
        return cls(
            files,
            directories=directories,
            cache=Path(environ.get("WEIGHTS_CACHE") or user_cache).expanduser(),
            mirror=mirror,
            # HF_HUB_OFFLINE is huggingface_hub's own switch; a user who sets it expects no connection here either.
            offline=any(environ.get(name, "").lower() in TRUE for name in ("WEIGHTS_OFFLINE", "HF_HUB_OFFLINE")),
            fetch_command=f"script/weights {model} {{paths}}",
        )

    def find(self, path: str) -> Path | None:
        """Return the location of a file on this machine, or None; no connection is opened.

        In `directories`, `path` may also be a file or folder that is not in the table, and NAME.safetensors has
        priority over a pickle NAME.bin or NAME.ckpt. A cached file of another size than the table's is ignored: it
        was fetched with another version of the table.
        """
        _check_path(path)
        for directory in self.directories:
            for candidate in _candidates(directory / path):
                if candidate.exists():
                    return candidate
        if self.cache is not None and path in self.files:
            cached, size = self.cache / path, self.files[path].size
            if cached.is_file() and size in (None, cached.stat().st_size):
                return cached
        return None

    def get(self, path: str) -> Path:
        """Return the location of one file, and fetch it if it is missing; raises what `fetch` raises."""
        return self.fetch([path])[path]

    def fetch(self, paths: Iterable[str]) -> dict[str, Path]:
        """Return the location of each file by path, and fetch the missing ones.

        Before the first transfer, WeightsMissing is raised for all files that cannot be fetched, and DownloadFailed if
        the disk is too small. Raises DownloadFailed if a transfer fails, WeightsError if its bytes do not match the
        table.
        """
        candidates = {path: self.find(path) for path in paths}
        locations = {path: location for path, location in candidates.items() if location is not None}
        missing = [path for path in candidates if path not in locations]
        if not missing:
            return locations
        if self.cache is None or self.offline:
            command = self.fetch_command.replace("{paths}", shlex.join(missing))
            raise self._missing_error(missing, f"This run opens no connection to fetch them; run: {command}")
        sources = {path: source for path in missing if (source := self._source(path)) is not None}
        if sourceless := [path for path in missing if path not in sources]:
            raise self._missing_error(sourceless, "They have no source; set WEIGHTS=DIR or WEIGHTS_MIRROR to one")
        remaining = sum(remaining_bytes(self.cache / path, self.files[path].size) for path in sources)
        ensure_disk_space(self.cache, remaining)
        for path, source in sources.items():
            file, target = self.files[path], self.cache / path
            url, headers = source.request()
            download(url, headers, target, name=path, size=file.size, sha256=file.sha256)
            locations[path] = target
        return locations

    def verify(self, path: str) -> str | None:
        """Return how the file on this machine differs from the table in size or SHA-256, or None.

        Raises WeightsMissing if the file is not on this machine.
        """
        location = self.find(path)
        if location is None:
            raise self._missing_error([path], "It cannot be verified; fetch it first")
        return check_file(location, self.files[path].size, self.files[path].sha256)

    def _source(self, path: str) -> HubFile | Url | None:
        if path not in self.files:
            return None
        return Url(f"{self.mirror}/{quote(path)}") if self.mirror else self.files[path].source

    def _missing_error(self, paths: Sequence[str], advice: str) -> WeightsMissing:
        searched = ", ".join(dict.fromkeys(str(path) for path in (*self.directories, self.cache) if path is not None))
        return WeightsMissing("\n  ".join([f"Not on this machine ({searched}):", *paths]) + f"\n{advice}")


def common_folder(files: Iterable[Path]) -> Path:
    """Return the folder of files that belong together, such as a tokenizer's; raise WeightsError for two folders."""
    paths = list(files)
    folders = sorted({str(path.parent) for path in paths})
    if len(folders) > 1:
        names = ", ".join(path.name for path in paths)
        raise WeightsError(
            f"{names} belong together but are in {' and '.join(folders)}; put all into one folder, or remove them there"
        )
    return paths[0].parent


def _candidates(path: Path) -> list[Path]:
    """Return the paths at which a file is looked for, in order of priority."""
    return [path.with_suffix(".safetensors"), path] if path.suffix in PICKLE_SUFFIXES else [path]


def _check_path(path: str) -> None:
    """Raise ValueError for a path that is not relative or leaves its directory."""
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\\" in path:
        raise ValueError(f"{path!r} is not a relative path below a weights directory")
