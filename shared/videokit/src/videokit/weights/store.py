"""The store that finds a model's weight files on this machine or fetches them.

Each model has a table of WeightFile (`videokit.weights.table`). The store looks for a path in its directories under all
names that a file may have (`videokit.weights.places`), then in the cache. It downloads missing files into the cache
(`videokit.weights.download`). A file has the same path below the cache and a mirror: models that share a file use one
path, and different files have different paths.
"""

from __future__ import annotations

import logging
import os
import shlex
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from videokit.errors import WeightsError, WeightsMissing
from videokit.weights.download import Expected, check_file, download, remaining_bytes
from videokit.weights.formats import PICKLES, SAFETENSORS, format_fault
from videokit.weights.places import find_in
from videokit.weights.records import Records
from videokit.weights.table import HubFile, Url, check_path
from videokit.weights.transfer import ensure_disk_space, total_size

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from videokit.weights.table import WeightFile

TRUE = ("1", "true", "yes", "on")
logger = logging.getLogger("videokit")


@dataclass(frozen=True)
class Verification:
    """Whether a file on this machine has the size and SHA-256 that are known of it."""

    location: Path
    fault: str | None  # how it differs
    expected: Expected  # what is known


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
        self._logged: set[str] = set()  # the paths whose location was logged

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

        In `directories`, `path` may also be a file or folder that is not in the table. A cached file that is damaged,
        or of another size than the table's (it was fetched with another version of the table), is ignored.
        """
        location = self._locate(path)
        return None if location is None or self._damage(path, location) else location

    def get(self, path: str) -> Path:
        """Return the location of one file, and fetch it if it is missing; raises what `fetch` raises."""
        return self.fetch([path])[path]

    def fetch(self, paths: Iterable[str]) -> dict[str, Path]:
        """Return the location of each file by path, and fetch the missing and the damaged ones.

        The location of each file of tensors is logged once. Before the first transfer, WeightsMissing is raised for all
        files that cannot be fetched, and DownloadFailed if the disk is too small. Raises DownloadFailed if a transfer
        fails, WeightsError if its bytes do not match what is known of the file.
        """
        candidates = {path: self.find(path) for path in paths}
        locations = {path: location for path, location in candidates.items() if location is not None}
        if missing := [path for path in candidates if path not in locations]:
            locations |= self._download(missing)
        for path, location in locations.items():
            if PurePosixPath(path).suffix not in (SAFETENSORS, *PICKLES):
                if fault := format_fault(location, location.name):
                    raise WeightsError(f"{location} {fault}")
            elif path not in self._logged:
                self._logged.add(path)
                logger.info("weights: %s: %s", path, location)
        return {path: locations[path] for path in candidates}

    def refuse_mixture(self, config: str, weights: str) -> None:
        """Raise WeightsError if a network's configuration is a user's own, and its weights are from another place.

        `config` and `weights` are the two files' paths in the table, and both are on this machine.
        """
        config_file, weights_file = self._locate(config), self._locate(weights)
        # the first place that has one of the two
        place = next((p for p in self._places for f in (config_file, weights_file) if f and f.is_relative_to(p)), None)
        if config_file is None or weights_file is None or place is None or weights_file.is_relative_to(place):
            return
        expected = self._expected(config, config_file)
        if expected.sha256 is None or check_file(config_file, expected) is not None:
            raise WeightsError(
                f"{config_file} would be used with {weights_file}, which may be of another network; "
                f"store the weights next to their configuration as {PurePosixPath(weights).name}, or remove it there"
            )

    def verify(self, path: str) -> Verification:
        """Return whether the file on this machine has the size and SHA-256 that are known of it.

        Raises WeightsMissing if the file is not on this machine.
        """
        location = self._locate(path)
        if location is None:
            raise self._missing_error([path], "It cannot be verified; fetch it first")
        # A user's file under another name is another file than the table's.
        named_so = any(location == place / path for place in self._places)
        expected = self._expected(path, location) if named_so else Expected(None, None)
        fault = check_file(location, expected)
        if fault is None and expected.sha256 is None and location.is_file():
            damage = format_fault(location, location.name)
            fault = damage and f"it {damage}"
        return Verification(location, fault, expected)

    @property
    def _places(self) -> tuple[Path, ...]:
        """The directories and the cache, in the order of the search."""
        return self.directories if self.cache is None else (*self.directories, self.cache)

    def _locate(self, path: str) -> Path | None:
        """Return the location of a file in the first place that has it, whatever its content, or None."""
        check_path(path)
        file = self.files.get(path)
        for directory in self.directories:
            if location := find_in(directory, path, folder=file is not None and file.or_folder):
                return location
        cached = self.cache / path if self.cache is not None and file is not None else None
        return cached if cached is not None and cached.is_file() else None

    def _damage(self, path: str, location: Path) -> str | None:
        """Return why a cached file is fetched again, or None; a user's own file is never replaced."""
        if self.cache is None or location != self.cache / path or self.cache in self.directories:
            return None
        size = self._expected(path, location).size
        if size not in (None, location.stat().st_size):
            return f"has {location.stat().st_size} bytes; expected {size}"
        return format_fault(location, path)

    def _expected(self, path: str, location: Path) -> Expected:
        """Return what is known of a file: from the table, or else from the record of its first download."""
        file = self.files.get(path)
        if file is None:
            return Expected(None, None)
        if file.sha256 is not None:
            return Expected(file.size, file.sha256)
        places = sorted(self._places, key=lambda place: not location.is_relative_to(place))  # its own place first
        records = (Records(place).get(path, file.pinned) for place in places)
        return next((record for record in records if record is not None), Expected(file.size, None))

    def _download(self, missing: Sequence[str]) -> dict[str, Path]:
        """Fetch files into the cache, and return the location of each by path."""
        if self.cache is None or self.offline:
            command = self.fetch_command.replace("{paths}", shlex.join(missing))
            raise self._missing_error(missing, f"This run opens no connection to fetch them; run: {command}")
        sources = {path: source for path in missing if (source := self._source(path)) is not None}
        if sourceless := [path for path in missing if path not in sources]:
            raise self._missing_error(sourceless, "They have no source; set WEIGHTS=DIR or WEIGHTS_MIRROR to one")
        expected = {path: self._expected(path, self.cache / path) for path in sources}
        requests = {path: source.request() for path, source in sources.items()}
        ensure_disk_space(self.cache, sum(remaining_bytes(self.cache / path, expected[path].size) for path in sources))
        size = total_size([file.size for file in expected.values()])
        hosts = ", ".join(sorted({urlsplit(url).hostname or "" for url, _ in requests.values()}))
        logger.info("weights: fetching %s from %s to %s: %s", size, hosts, self.cache, ", ".join(requests))
        for path, (url, headers) in requests.items():
            target = self.cache / path
            if target.is_file():
                logger.warning("weights: %s %s; fetching it again", target, self._damage(path, target))
            record = partial(Records(self.cache).add, path, self.files[path].pinned)
            download(url, headers, target, name=path, expected=expected[path], record=record)
        return {path: self.cache / path for path in sources}

    def _source(self, path: str) -> HubFile | Url | None:
        if path not in self.files:
            return None
        return Url(f"{self.mirror}/{quote(path)}") if self.mirror else self.files[path].source

    def _missing_error(self, paths: Sequence[str], advice: str) -> WeightsMissing:
        searched = ", ".join(dict.fromkeys(map(str, self._places)))
        lines = [f"Not on this machine ({searched}):"]
        for path in paths:
            damaged = self._locate(path)
            lines.append(path if damaged is None else f"{path}; {damaged} {self._damage(path, damaged)}")
        return WeightsMissing("\n  ".join(lines) + f"\n{advice}")


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
