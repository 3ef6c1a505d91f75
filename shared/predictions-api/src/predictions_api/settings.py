"""The settings of a server, checked when they are created."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

DNS = "dns+"  # begins a URL whose host name stands for all of its addresses
BUCKET = re.compile(r"s3://[a-z0-9][a-z0-9.-]+(/[\w.-]+)*/?", re.ASCII)
LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True)
class ModelSettings:
    """One model: its published name and ids, and its Cog servers."""

    name: str  # owner/name
    versions: tuple[str, ...]  # newest first; 64 hexadecimal digits each
    description: str = ""
    schema: Path | None = None  # OpenAPI JSON; None: from the Cog server
    readme: Path | None = None  # Markdown
    examples: Path | None = None  # directory of predictions as JSON, and of their files
    command: tuple[str, ...] = ()  # starts a Cog server, which prints "... is ready at URL"
    urls: tuple[str, ...] = ()  # of running Cog servers; with dns+ all addresses of the name
    cog_version: str = "0.23.1"  # used if the Cog server does not report its version

    def __post_init__(self) -> None:
        _check_types(self)
        if self.name.count("/") != 1 or not all(self.name.split("/")):
            raise ValueError(f"model name {self.name!r} is invalid; give it in the form owner/name")
        if not self.versions:
            raise ValueError(f"model {self.name} has no version; give at least one id of 64 hexadecimal digits")
        if bool(self.command) == bool(self.urls):
            raise ValueError(
                f"model {self.name} needs either a command that starts a Cog server or urls of running ones"
            )
        for url in self.urls:
            _check_url(f"url of {self.name}", url.removeprefix(DNS))


@dataclass(frozen=True)
class Settings:
    """One server. Times are in seconds."""

    models: tuple[ModelSettings, ...]
    data: Path = Path("predictions-data")  # has files/ and the default database predictions.sqlite
    bucket: str = ""  # s3://NAME or s3://NAME/PREFIX, for files; empty: files/ in `data`
    database: str = ""  # SQLAlchemy URL; empty: SQLite in `data`
    host: str = "127.0.0.1"
    port: int = 8000
    public_url: str | None = None  # base URL for clients; None: from each request
    internal_url: str | None = None  # base URL of this process for Cog servers; None: host and port
    tokens: tuple[str, ...] = field(default=(), repr=False)
    tokens_file: Path | None = None  # further tokens, which may change
    keep: float = 3600.0
    queue_limit: int = 10_000
    idle: float = 600.0
    setup_timeout: float = 600.0  # for a Cog server to become ready, after which a prediction that waits for it fails
    silence: float = 120.0  # without progress, after which a Cog server is asked whether it still has the prediction
    allow_private_webhooks: bool = False
    allow_private_inputs: bool = False
    input_limit: int = 2_000_000_000  # bytes of a file that is fetched for an input
    input_timeout: float = 60.0  # for a file that is fetched for an input
    certfile: Path | None = None
    keyfile: Path | None = None
    webhook_retry_delays: tuple[float, ...] = (2.0, 4.0, 8.0, 16.0, 30.0)  # one minute from first to last attempt

    def __post_init__(self) -> None:
        _check_types(self)
        if not self.needs_token and self.host not in LOOPBACK:
            raise ValueError(
                f"host {self.host} is reachable from other machines and no token is set; give a token "
                f"(REPLICATE_API_TOKEN, tokens = [...] or tokens_file), or bind to 127.0.0.1"
            )
        if (self.certfile is None) != (self.keyfile is None):
            raise ValueError("certfile and keyfile belong together; give both or none")
        positive = ("keep", "idle", "setup_timeout", "silence", "queue_limit", "input_limit", "input_timeout")
        if min(getattr(self, name) for name in positive) <= 0:
            raise ValueError(f"{', '.join(positive)} must be more than 0")
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port is {self.port}; give 0 to 65535")
        if self.bucket and not BUCKET.fullmatch(self.bucket):
            raise ValueError(f"bucket is {self.bucket!r}; give s3://NAME or s3://NAME/PREFIX, or omit it")
        for name in ("public_url", "internal_url"):
            _check_url(name, getattr(self, name))
        names = [model.name for model in self.models]
        if len(set(names)) != len(names):
            raise ValueError("two models have one name; give each model its own name")

    @property
    def needs_token(self) -> bool:
        return bool(self.tokens) or self.tokens_file is not None

    @property
    def is_local(self) -> bool:
        """Return whether all clients are programs of this machine, so that loopback addresses are theirs, too."""
        return not self.needs_token and self.public_url is None

    @property
    def files(self) -> Path:
        return self.data / "files"

    @property
    def callback_url(self) -> str:
        """Return the base URL of this process for Cog servers."""
        return (self.internal_url or self.address).rstrip("/")

    @property
    def address(self) -> str:
        """Return the base URL of this process for clients on this machine."""
        scheme = "https" if self.certfile else "http"
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{self.port}"

    @property
    def default_base(self) -> str:
        """Return the base URL for clients where there is no request, as in webhooks."""
        return (self.public_url or self.address).rstrip("/")


# The annotation of a setting -> the types of its values, and what to give.
_KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "str": ((str,), "a text"),
    "str | None": ((str, type(None)), "a text"),
    "int": ((int,), "a whole number"),
    "float": ((int, float), "a number"),
    "bool": ((bool,), "true or false"),
    "tuple[str, ...]": ((tuple,), "a list of texts"),
    "tuple[float, ...]": ((tuple,), "a list of numbers"),
}


def _check_types(settings: ModelSettings | Settings) -> None:
    """Raise ValueError for a setting whose value has another type, as a configuration file may have any."""
    for setting in dataclasses.fields(settings):
        types, wanted = _KINDS.get(str(setting.type), ((object,), ""))
        value: Any = getattr(settings, setting.name)
        is_valid = isinstance(value, types) and (isinstance(value, bool) <= (bool in types or object in types))
        if isinstance(value, tuple) and wanted.startswith("a list of"):
            is_valid = all(isinstance(item, str if "texts" in wanted else int | float) for item in value)
            value = list(value)
        if not is_valid:
            raise ValueError(f"{setting.name} is {value!r}; give {wanted}")


def _check_url(name: str, url: str | None) -> None:
    try:
        is_valid = url is None or (urlsplit(url).scheme in ("http", "https") and bool(urlsplit(url).hostname))
    except ValueError:
        is_valid = False
    if not is_valid:
        raise ValueError(f"{name} is {url!r}; give an http:// or https:// URL")
