"""pip's configuration as uv's options, because uv does not read it: the places of packages, and how to reach them."""

from __future__ import annotations

import ast
import re
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_OPTIONS = {"index-url": "default-index", "extra-index-url": "index", "find-links": "find-links"}
_OPTIONS["trusted-host"] = "allow-insecure-host"
_VARIABLES = {"cert": "SSL_CERT_FILE", "proxy": "ALL_PROXY", "default-timeout": "UV_HTTP_TIMEOUT"}
_SECTIONS = ["global", "install", ":env:"]  # a later one wins


def uv_options(python: Path) -> tuple[list[str], dict[str, str]]:
    """Return uv's options and environment variables for what `pip config list` prints.

    uv takes a package from the first index that has its name, and pip from any. The hashes make pip's way safe.
    """
    listed = subprocess.run([str(python), "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    found = re.findall(r"^(global|install|:env:)\.([\w-]+)=(.*)$", listed.stdout, re.MULTILINE)
    found.sort(key=lambda line: _SECTIONS.index(line[0]))
    settings = {name: str(ast.literal_eval(value)) for _, name, value in found}
    options = [f"--{_OPTIONS[name]}={word}" for name in _OPTIONS for word in settings.get(name, "").split()]
    if settings.get("no-index", "false").lower() in ("1", "true", "yes", "on"):
        options.append("--no-index")
    environ = {variable: settings[name] for name, variable in _VARIABLES.items() if name in settings}
    return ["--index-strategy=unsafe-best-match", *options], environ
