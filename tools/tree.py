"""The repository's root and models, and the parser of scripts' arguments. Supports Python 3.8, needs no package."""

from __future__ import annotations

import argparse
import difflib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from terminal import end_quietly

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parent.parent


def models(having: str = "cog.yaml") -> list[str]:
    """Return the names of the models, sorted: directories in the root with a cog.yaml, and with `having`, a glob."""
    return sorted(path.parent.name for path in ROOT.glob("*/cog.yaml") if any(path.parent.glob(having)))


def package_of(model: str) -> str:
    """Return the name of a model's Python package: `animate_diff` for `animate-diff`."""
    return model.replace("-", "_")


def description(model: str) -> str:
    """Return the first line of a model's README after the title, or an empty text."""
    readme = ROOT / model / "README.md"
    lines = readme.read_text("utf-8").splitlines()[1:] if readme.exists() else []
    return next(filter(None, lines), "")


def suggestion(name: str, names: Iterable[str]) -> str:
    """Return `; did you mean NAME?` with the name that is meant, or an empty text."""
    names = list(names)
    longer = [each for each in names if name and each.startswith(name)]
    nearest = longer or difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {nearest[0]}?" if nearest else ""


def documented_name(model: str) -> str:
    """Return the owner/name:version under which a model is documented, or local/MODEL without a version."""
    table = (ROOT / "pyproject.toml").read_text("utf-8").partition("[tool.serve.documented]")[2]
    names: dict[str, str] = dict(re.findall('^([\\w-]+) = "(.+)"', table, re.MULTILINE))  # tomllib needs Python 3.11
    return names.get(model, f"local/{model}")


def model_name(text: str) -> str:
    """Return the name of a model, from an argument for argparse: its name, its path with a slash, or its owner/name."""
    name = text.rstrip("/")
    name = next((model for model in models() if documented_name(model).partition(":")[0] == name), name)
    if name not in models():
        meant = suggestion(name, models())
        raise argparse.ArgumentTypeError(f"{text!r} is not a model{meant} (models: {', '.join(models())})")
    return name


def weights_choice(text: str) -> str:
    """Return the choice of weights in an argument for argparse: demo, full, or a directory."""
    if text not in ("demo", "full") and not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is not demo, full, or a directory")
    return text


def port_number(text: str) -> int:
    """Return the number of a port, in an argument for argparse."""
    if not (text.isascii() and text.isdigit() and int(text) < 2**16):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port; give 0 to 65535")
    return int(text)


class ScriptParser(argparse.ArgumentParser):
    """A parser that names the option that is meant by one that it does not know."""

    def error(self, message: str) -> NoReturn:
        unknown = message.partition("unrecognized arguments: ")[2].partition(" ")[0]
        super().error(message + suggestion(unknown, re.findall(r"--\w[\w-]*", self.format_help())))


def script_parser(doc: str | None, **options: Any) -> argparse.ArgumentParser:
    """Return a parser whose help is a script's docstring. `options` are those of argparse.ArgumentParser.

    From here on, Ctrl-C and other signals end the script with one line.
    """
    end_quietly()
    formatter = argparse.RawDescriptionHelpFormatter
    return ScriptParser(description=doc, formatter_class=formatter, allow_abbrev=False, **options)
