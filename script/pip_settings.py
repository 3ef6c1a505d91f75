"""pip's configuration as uv's options, because uv does not read it: the places of packages, and how to reach them."""

from __future__ import annotations

import ast
import re
import subprocess

_OPTIONS = {"index-url": "default-index", "extra-index-url": "index", "find-links": "find-links"}
_OPTIONS["trusted-host"] = "allow-insecure-host"
_VARIABLES = {"cert": "SSL_CERT_FILE", "proxy": "ALL_PROXY", "default-timeout": "UV_HTTP_TIMEOUT"}


def uv_options(python: object) -> tuple[list[str], dict[str, str]]:
    """Return uv's options and environment variables for what `pip config list` prints.

    uv takes a package from the first index that has its name, and pip from any. The hashes make pip's way safe.
    """
    command = [str(python), "-m", "pip", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    settings: dict[str, str] = {}
    for section in ("global", "install", ":env:"):  # a later one wins
        settings.update(re.findall(rf"^{section}\.([\w-]+)=(.*)$", listed, re.MULTILINE))
    settings = {name: ast.literal_eval(value) for name, value in settings.items()}
    options = [f"--{_OPTIONS[name]}={word}" for name in _OPTIONS for word in settings.get(name, "").split()]
    options += ["--no-index"] * (settings.get("no-index", "").lower() in ("1", "true", "yes", "on"))
    environ = {variable: settings[name] for name, variable in _VARIABLES.items() if name in settings}
    return ["--index-strategy=unsafe-best-match", *options], environ
