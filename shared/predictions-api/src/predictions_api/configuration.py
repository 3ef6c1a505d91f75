"""Settings from a TOML file, flags and the environment; flags win over the file."""

from __future__ import annotations

import argparse
import dataclasses
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from predictions_api.settings import ModelSettings, Settings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

EPILOG = """\
A configuration file in TOML has any of the flags' names, with _ for -, and the models:

    keep = 7200
    tokens = ["a long random text"]

    [[models]]
    name = "lucataco/animate-diff"
    versions = ["beecf59c4aee8d81bf04f0381033dfa10dc16e845b4ae00d281e2fa377e48a9f"]
    urls = ["http://gpu1:5000", "http://gpu2:5000"]       # Cog servers that run already, or instead:
    command = ["script/serve", "animate-diff", "--port", "0", "--until-stdin-ends"]  # what starts one
    schema = "animate-diff.json"                          # OpenAPI of the Cog server; asked for if left out

Paths in it are relative to it. Tokens are also taken from REPLICATE_API_TOKEN (several with commas).
"""


class BadConfiguration(Exception):
    """The file or the flags cannot be used; the text says what to do."""


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line; a flag that is not given is None."""
    flags = argparse.ArgumentParser(
        prog="python -m predictions_api",
        description="Serve Replicate's HTTP API for predictions in front of Cog servers.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flags.add_argument("--config", type=Path, metavar="FILE", help="a TOML file, see below")
    flags.add_argument("--host", help="address to listen at; default 127.0.0.1; others need a token")
    flags.add_argument("--port", type=int, help="default 8000; 0 takes a free one")
    flags.add_argument("--public-url", metavar="URL", help="how clients reach it, if not as they ask for it")
    flags.add_argument("--internal-url", metavar="URL", help="how Cog servers on other hosts reach this very server")
    flags.add_argument(
        "--database", metavar="URL", help="postgresql+psycopg://...; default SQLite in the data directory"
    )
    flags.add_argument("--data", type=Path, metavar="DIR", help="files and SQLite; default ./predictions-data")
    flags.add_argument("--keep", type=float, metavar="S", help="how long inputs, outputs, logs are kept; default 3600")
    flags.add_argument("--queue-limit", type=int, metavar="N", help="waiting predictions of a model; default 10000")
    flags.add_argument("--idle", type=float, metavar="S", help="stop a started Cog server after so long; default 600")
    flags.add_argument(
        "--silence", type=float, metavar="S", help="ask a Cog server that tells nothing after so long; default 120"
    )
    flags.add_argument("--certfile", type=Path, metavar="PEM", help="serve TLS with this certificate")
    flags.add_argument("--keyfile", type=Path, metavar="PEM", help="and this key")
    flags.add_argument(
        "--allow-private-webhooks",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="let webhooks go to private addresses and to http:// URLs; loopback is always allowed",
    )
    flags.add_argument("--log-level", default="info", choices=("debug", "info", "warning", "error"))
    return flags


def read_settings(arguments: argparse.Namespace, environ: Mapping[str, str]) -> Settings:
    """Return the settings; raises BadConfiguration."""
    known = {field.name for field in dataclasses.fields(Settings)}
    try:
        values = _read(arguments.config) if arguments.config else {}
        unknown = sorted(set(values) - known)
        if unknown:
            names = ", ".join(sorted(known))
            raise BadConfiguration(f"{arguments.config}: unknown {', '.join(unknown)}; known are {names}")
        given = {name: value for name, value in vars(arguments).items() if name in known and value is not None}
        tokens = [*values.pop("tokens", ()), *environ.get("REPLICATE_API_TOKEN", "").split(",")]
        models = tuple(_model(model) for model in values.pop("models", ()))
        values["tokens"] = tuple(token.strip() for token in tokens if token.strip())
        return Settings(**{**values, **given, "models": models})
    except (OSError, ValueError, TypeError) as error:  # ValueError: Settings' own, and TOML's
        raise BadConfiguration(str(error)) from error


def _read(path: Path) -> dict[str, Any]:
    values = tomllib.loads(path.read_text("utf-8"))
    for table in (values, *values.get("models", ())):
        for name in ("data", "certfile", "keyfile", "schema"):
            if name in table:
                table[name] = path.parent / table[name]
    if "webhook_retry_delays" in values:
        values["webhook_retry_delays"] = tuple(values["webhook_retry_delays"])
    return values


def _model(table: Mapping[str, Any]) -> ModelSettings:
    lists: Sequence[str] = ("versions", "command", "urls")
    values: dict[str, Any] = {name: tuple(value) if name in lists else value for name, value in table.items()}
    return ModelSettings(**values)
