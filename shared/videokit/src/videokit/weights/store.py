"""Weight files as data, and the store that finds them on this machine or fetches them.

A model's package holds a table of WeightFile; the store looks for each path in the directories given, then in the
cache, and downloads what is in neither into the cache (`videokit.weights.download`). The path of a file is the same below
every directory, the cache and a mirror, so models that share a file give it one path, and different files never
share one. No weight file is opened as weights here.
"""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from videokit.errors import WeightsError, WeightsMissing
from videokit.weights.download import download, file_fault, make_room, still_to_come

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

TRUE = ("1", "true", "yes", "on")
PICKLES = (".bin", ".ckpt")
LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True)
class HubFile:
    """A file of a Hugging Face model at one commit: `revision` has 40 hex digits, for branches and tags move."""

    repo: str
    revision: str
    name: str

    def __post_init__(self) -> None:
        if not re.fullmatch("[0-9a-f]{40}", self.revision):
            raise ValueError(f"{self.repo}: revision {self.revision!r} is not a commit of 40 hex digits")

    def request(self) -> tuple[str, dict[str, str]]:
        """Return the URL and headers that fetch it, from HF_ENDPOINT and with HF_TOKEN as huggingface_hub has it."""
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # public by its documentation

        # The library has read HF_ENDPOINT when it was imported, which may have been long ago.
        endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or None
        url = hf_hub_url(self.repo, self.name, revision=self.revision, endpoint=endpoint)
        return url, build_hf_headers(library_name="videokit")


@dataclass(frozen=True)
class Url:
    """A file anywhere, over HTTPS (HTTP only on this machine's own address, for tests)."""

    url: str

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        secure = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK)
        if not (secure and parts.hostname):
            raise ValueError(f"{self.url!r} is not an https:// address")

    def request(self) -> tuple[str, dict[str, str]]:
        """Return the URL and headers that fetch it."""
        return self.url, {}


@dataclass(frozen=True)
class WeightFile:
    """One entry of a model's table: `path` below a weights directory, `size` in bytes, `sha256` in lower-case hex.

    Without a source it is fetched only from a mirror.
    """

    path: str
    source: HubFile | Url | None
    licence: str
    size: int | None = None
    sha256: str | None = None

    def __post_init__(self) -> None:
        _check_path(self.path)
        if self.sha256 is not None and not re.fullmatch("[0-9a-f]{64}", self.sha256):
            raise ValueError(f"{self.path}: sha256 {self.sha256!r} has not 64 lower-case hex digits")


class WeightStore:
    """The files of one table on one machine.

    `directories` are looked into in their order and taken as they are: a user's own file may differ from the
    table's. Downloads go to `cache` and are verified; without a cache, or `offline`, no connection is ever opened.
    `fetch_command` is what messages then advise, with the missing paths in place of `{paths}`.
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
        """Make the store that WEIGHTS, WEIGHTS_CACHE, WEIGHTS_MIRROR and WEIGHTS_OFFLINE ask for.

        WEIGHTS is "full" (or nothing): `weights/` of the model's directory, the cache, download; a directory: that
        one before them; "demo": only `demo-weights/` of the model's directory. Raises WeightsError for a directory
        that does not exist and for a mirror that is no HTTPS address.
        """
        choice = environ.get("WEIGHTS") or "full"
        if choice == "demo":
            demo = model_directory / "demo-weights"
            return cls(files, directories=[demo], cache=None, fetch_command=f"git restore {model}/demo-weights")
        directories = [model_directory / "weights"]
        if choice != "full":
            given = Path(choice).expanduser()
            if not given.is_dir():
                raise WeightsError(f"WEIGHTS={choice} is no directory; give one that exists, or full, or demo")
            directories.insert(0, given)
        users = Path(environ.get("XDG_CACHE_HOME") or "~/.cache") / "videokit"
        mirror = environ.get("WEIGHTS_MIRROR") or None
        try:
            if mirror is not None:
                Url(mirror)
        except ValueError as error:
            raise WeightsError(f"WEIGHTS_MIRROR: {error}") from None
        return cls(
            files,
            directories=directories,
            cache=Path(environ.get("WEIGHTS_CACHE") or users).expanduser(),
            mirror=mirror,
            # Who has forbidden huggingface_hub to connect means this store as well.
            offline=any(environ.get(name, "").lower() in TRUE for name in ("WEIGHTS_OFFLINE", "HF_HUB_OFFLINE")),
            fetch_command=f"script/weights {model} {{paths}}",
        )

    def find(self, path: str) -> Path | None:
        """Return where a file lies on this machine, or None; no connection is opened.

        In a directory given, `path` may also be a file or folder that the table does not have, and NAME.safetensors
        is taken before a pickle NAME.bin or NAME.ckpt. A file of the cache whose size is not the table's is passed
        over: another version of the table has fetched it.
        """
        _check_path(path)
        for directory in self.directories:
            for place in _stand_ins(directory / path):
                if place.exists():
                    return place
        if self.cache is not None and path in self.files:
            cached, size = self.cache / path, self.files[path].size
            if cached.is_file() and size in (None, cached.stat().st_size):
                return cached
        return None

    def get(self, path: str) -> Path:
        """Return where one file lies, after fetching it if it must be; raises as `fetch` does."""
        return self.fetch([path])[path]

    def fetch(self, paths: Iterable[str]) -> dict[str, Path]:
        """Return where each file lies, after fetching those that are not on this machine.

        Before anything is fetched, WeightsMissing names all that cannot be, and free disk is checked for the rest.
        Raises DownloadFailed where a transfer fails, WeightsError where it brings other bytes than the table says.
        """
        places = {path: self.find(path) for path in paths}
        found = {path: place for path, place in places.items() if place is not None}
        missing = [path for path in places if path not in found]
        if not missing:
            return found
        if self.cache is None or self.offline:
            command = self.fetch_command.replace("{paths}", shlex.join(missing))
            raise self._missing(missing, f"No connection is opened for them here; run: {command}")
        sources = {path: source for path in missing if (source := self._source(path)) is not None}
        if sourceless := [path for path in missing if path not in sources]:
            raise self._missing(sourceless, "They have no source; give WEIGHTS=DIR or WEIGHTS_MIRROR that has them")
        make_room(self.cache, sum(still_to_come(self.cache / path, self.files[path].size) for path in sources))
        for path, source in sources.items():
            file, target = self.files[path], self.cache / path
            url, headers = source.request()
            download(url, headers, target, name=path, size=file.size, sha256=file.sha256)
            found[path] = target
        return found

    def verify(self, path: str) -> str | None:
        """Tell whether the file on this machine has the size and SHA-256 that the table knows of it."""
        place = self.find(path)
        if place is None:
            raise self._missing([path], "There is nothing to verify")
        return file_fault(place, self.files[path].size, self.files[path].sha256)

    def _source(self, path: str) -> HubFile | Url | None:
        if path not in self.files:
            return None
        return Url(f"{self.mirror}/{quote(path)}") if self.mirror else self.files[path].source

    def _missing(self, paths: Sequence[str], advice: str) -> WeightsMissing:
        looked = ", ".join(dict.fromkeys(str(place) for place in (*self.directories, self.cache) if place is not None))
        return WeightsMissing("\n  ".join([f"Not on this machine ({looked}):", *paths]) + f"\n{advice}")


def _stand_ins(place: Path) -> list[Path]:
    """Return the places at which a file is looked for, the first one before the next."""
    return [place.with_suffix(".safetensors"), place] if place.suffix in PICKLES else [place]


def _check_path(path: str) -> None:
    """Raise ValueError for a path that is not relative, or leaves its directory."""
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\\" in path:
        raise ValueError(f"{path!r} is no relative path below a weights directory")
