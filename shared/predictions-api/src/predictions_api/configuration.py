"""Read settings from a TOML file, flags and the environment. Flags override the file."""

from __future__ import annotations

import argparse
import dataclasses
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from predictions_api.settings import ModelSettings, Settings

if TYPE_CHECKING:
    from collections.abc import Mapping

EPILOG = """\
A configuration file in TOML has the names of the flags, with _ for -, and the models:

    keep = 7200
    tokens = ["a long random text"]

    [[models]]
    name = "lucataco/animate-diff"
    versions = ["beecf59c4aee8d81bf04f0381033dfa10dc16e845b4ae00d281e2fa377e48a9f"]
    urls = ["http://gpu1:5000", "dns+http://gpu:5000"]    # running Cog servers, dns+: all addresses; or instead:
    command = ["script/serve", "animate-diff", "--port", "0", "--until-stdin-ends"]  # starts one
    schema = "animate-diff.json"                          # OpenAPI; default: from the Cog server
    readme = "README.md"                                  # optional
    examples = "examples"                                 # optional: predictions as NAME.json, and their files

Paths in the file are relative to its directory. REPLICATE_API_TOKEN adds tokens, separated by commas.
--bucket uses AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, and AWS_ENDPOINT_URL for other services than AWS.
"""


class BadConfiguration(Exception):
    """The file or a flag is invalid. The text says what to do."""


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line. Flags default to None, so that the file is used."""
    flags = argparse.ArgumentParser(
        prog="python -m predictions_api",
        description="Serve Replicate's HTTP API for predictions in front of Cog servers.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flags.add_argument("--config", type=Path, metavar="FILE", help="TOML file, see below")
    flags.add_argument("--host", help="address to listen at; default 127.0.0.1; others require a token")
    flags.add_argument("--port", type=int, help="default 8000; 0 for a free port")
    flags.add_argument("--public-url", metavar="URL", help="base URL for clients; default: from each request")
    flags.add_argument("--internal-url", metavar="URL", help="base URL of this process for Cog servers on other hosts")
    flags.add_argument(
        "--database", metavar="URL", help="postgresql+psycopg://...; default SQLite in the data directory"
    )
    flags.add_argument("--data", type=Path, metavar="DIR", help="files and SQLite; default ./predictions-data")
    flags.add_argument(
        "--bucket", metavar="URL", help="s3://NAME/PREFIX for files instead of the data directory; variables below"
    )
    flags.add_argument("--keep", type=float, metavar="S", help="seconds to keep inputs, outputs and logs; default 3600")
    flags.add_argument("--queue-limit", type=int, metavar="N", help="most waiting predictions per model; default 10000")
    flags.add_argument("--idle", type=float, metavar="S", help="stop a Cog server after S idle seconds; default 600")
    flags.add_argument(
        "--setup-timeout",
        type=float,
        metavar="S",
        help="fail predictions for which no Cog server has been ready for S seconds; default 600",
    )
    flags.add_argument(
        "--silence", type=float, metavar="S", help="check a Cog server after S seconds without progress; default 120"
    )
    flags.add_argument(
        "--tokens-file", type=Path, metavar="FILE", help="further tokens, one a line; read again when the file changes"
    )
    flags.add_argument("--certfile", type=Path, metavar="PEM", help="serve TLS with this certificate")
    flags.add_argument("--keyfile", type=Path, metavar="PEM", help="private key of the certificate")
    flags.add_argument(
        "--allow-private-webhooks",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="allow webhooks to private addresses; loopback is private if there is a token or public URL",
    )
    flags.add_argument(
        "--allow-private-inputs",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="fetch inputs from private addresses; loopback is private if there is a token or public URL",
    )
    flags.add_argument(
        "--input-limit", type=int, metavar="BYTES", help="largest file fetched for an input; default 2000000000"
    )
    flags.add_argument("--input-timeout", type=float, metavar="S", help="seconds for fetching a file; default 60")
    flags.add_argument("--log-level", default="info", choices=("debug", "info", "warning", "error"))
    return flags


def read_settings(arguments: argparse.Namespace, environ: Mapping[str, str]) -> Settings:
    """Return the settings. Raises BadConfiguration."""
    names = {field.name for field in dataclasses.fields(Settings)}
    try:
        values = _read(arguments.config) if arguments.config else {}
        _check_names(values, Settings, str(arguments.config))
        flags = {name: value for name, value in vars(arguments).items() if name in names and value is not None}
        tokens = values.get("tokens", ())
        if isinstance(tokens, tuple) and all(isinstance(token, str) for token in tokens):  # or else Settings refuses it
            tokens = (*tokens, *environ.get("REPLICATE_API_TOKEN", "").split(","))
            values["tokens"] = tuple(token.strip() for token in tokens if token.strip())
        models = tuple(_model(model) for model in values.pop("models", ()))
        return Settings(**{**values, **flags, "models": models})
    except (OSError, ValueError, TypeError) as error:  # ValueError: from Settings and from tomllib
        raise BadConfiguration(str(error)) from error


def _read(path: Path) -> dict[str, Any]:
    values = _with_tuples(tomllib.loads(path.read_text("utf-8")))
    models = values.get("models", ())
    if not isinstance(models, tuple) or not all(isinstance(model, dict) for model in models):
        raise BadConfiguration(f"{path}: models is {models!r}; give a table [[models]] for each model")
    for table in (values, *models):
        for name in ("data", "tokens_file", "certfile", "keyfile", "schema", "readme", "examples"):
            if name in table:
                table[name] = path.parent / table[name]
    return values


def _model(table: Mapping[str, Any]) -> ModelSettings:
    _check_names(table, ModelSettings, f"model {table.get('name', '')}")
    return ModelSettings(**{"name": "", "versions": (), **_with_tuples(table)})


def _with_tuples(table: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in table.items()}


def _check_names(table: Mapping[str, Any], settings: type[Settings | ModelSettings], place: str) -> None:
    names = {field.name for field in dataclasses.fields(settings)}
    if unknown := sorted(set(table) - names):
        raise BadConfiguration(f"{place}: unknown {', '.join(unknown)}; known are {', '.join(sorted(names))}")
