"""The OpenAPI schema of a model: `MODEL/openapi.json`, and the generator that writes this file from predict.py.

`cog build` writes the same document into an image. Cog's generator silently misreads some declarations. This generator
accepts one form, which Cog reads as Python does, and raises SchemaError for all others:

    name: type = Input(literal arguments only)

The `cog` package cannot write the document: `cog._inspector` imports predict.py, returns fields without the document
around them, and no longer knows whether `default=None` was written.

Sources, replicate/cog at 6110c91 (0.22.0): pkg/schema/openapi.go for the format and for document.json, the part that
all models share; pkg/schema/python/literals.go for the literals that Cog reads correctly.
"""

from __future__ import annotations

import ast
import json
import os
import re
from pathlib import Path
from typing import Any

from jsonschema import Draft4Validator
from tree import ROOT
from videokit.files import atomic_write

Schema = dict[str, Any]

FILE_NAME = "openapi.json"
_DOCUMENT = Path(__file__).with_name("document.json")  # without what depends on the model
_PRIMITIVES: dict[str, Schema] = {
    "bool": {"type": "boolean"},
    "float": {"type": "number"},
    "int": {"type": "integer"},
    "str": {"type": "string"},
    "Path": {"type": "string", "format": "uri"},
}
_KEYWORDS = {  # Input's argument -> its name in the schema
    "default": "default",
    "description": "description",
    "ge": "minimum",
    "le": "maximum",
    "min_length": "minLength",
    "max_length": "maxLength",
    "regex": "pattern",
    "choices": "enum",
}
_NUMBER = r"-?\d+(?:\.\d*)?(?:e[+-]?\d+)?"
_STRING = r"""r?"[^"\\\n]*"|r?'[^'\\\n]*'|\"{3}(?:(?!\"{3})[^\\])+\"{3}"""
_SCALAR = rf"(?:None|True|False|{_NUMBER}|{_STRING})"
_LITERAL = re.compile(rf"{_SCALAR}|\[\s*(?:{_SCALAR}\s*(?:,\s*{_SCALAR}\s*)*,?\s*)?\]")


class SchemaError(Exception):
    """A predict.py that Cog would refuse or misread (`FILE:LINE: ...`), or an openapi.json that cannot be used."""


def read_schema(model_dir: Path) -> Schema:
    """Return the document in a model's openapi.json. Raises SchemaError with the command that writes the file."""
    path = model_dir / FILE_NAME
    try:
        schema: Schema = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise SchemaError(f"{path} is missing; run: {_command(model_dir)}") from None
    except ValueError as error:
        raise SchemaError(f"{path} is not JSON ({error}); run: {_command(model_dir)}") from None
    return schema


def write_schema(model_dir: Path) -> Path:
    """Write a model's openapi.json from its predict.py, unless it is up to date, and return the path.

    The predictions API takes the creation time of a version from the file's time. Raises SchemaError.
    """
    path = model_dir / FILE_NAME
    if schema_fault(model_dir):
        with atomic_write(path) as part:
            part.write_text(_text(model_dir), "utf-8")
    return path


def schema_fault(model_dir: Path) -> str | None:
    """Return what is wrong with a model's openapi.json, with the command that mends it, or None. Raises SchemaError."""
    path = model_dir / FILE_NAME
    if path.exists() and path.read_text("utf-8") == _text(model_dir):
        return None
    fault = "does not match predict.py" if path.exists() else "is missing"
    return f"{path} {fault}; run: {_command(model_dir)}"


def openapi_schema(predict_py: Path) -> Schema:
    """Return the OpenAPI 3.0.2 document of `Predictor`, read from the text of predict.py. Raises SchemaError."""
    try:
        return _Reader(predict_py.read_text("utf-8")).schema()
    except SyntaxError as error:
        raise SchemaError(f"{predict_py}:{error.lineno}: {error.msg}") from None


def _text(model_dir: Path) -> str:
    return json.dumps(openapi_schema(model_dir / "predict.py"), indent=2, ensure_ascii=False) + "\n"


def _command(model_dir: Path) -> str:
    return f"script/schema {os.path.relpath(model_dir, ROOT)}"


class _DeclarationError(SyntaxError):
    def __init__(self, node: ast.AST, text: str) -> None:
        super().__init__(text)
        self.lineno = getattr(node, "lineno", 1)


class _Reader:
    def __init__(self, source: str) -> None:
        self.source = source
        self.tree = ast.parse(source)
        self.from_cog = {
            alias.asname or alias.name
            for node in self.tree.body
            if isinstance(node, ast.ImportFrom) and node.module == "cog"
            for alias in node.names
        }

    def schema(self) -> Schema:
        method = self._method()
        inputs: Schema = {"title": "Input", "type": "object", "properties": {}}
        enums: dict[str, Schema] = {}
        for order, (argument, value) in enumerate(self._arguments(method)):
            name = argument.arg
            field, choices = self._input(argument, value)
            inputs["properties"][name] = {"x-order": order, **field}
            if choices is not None:
                enums[name] = {"title": name, "description": "An enumeration.", **choices}
            if "default" not in field and "nullable" not in field:
                inputs.setdefault("required", []).append(name)
        output = {**self._output(method), "title": "Output"}
        document: Schema = json.loads(_DOCUMENT.read_text("utf-8"))
        components = document["components"]
        components["schemas"] = {"Input": inputs, "Output": output, **enums, **components["schemas"]}
        if any(ast.unparse(node) in ("streaming", "cog.streaming") for node in method.decorator_list):
            document["paths"]["/predictions"]["post"]["x-cog-streaming"] = True
        return document

    def _method(self) -> ast.FunctionDef:
        for node in self.tree.body:
            if isinstance(node, ast.ClassDef) and node.name == "Predictor":
                for member in node.body:
                    if isinstance(member, ast.FunctionDef) and member.name in ("run", "predict"):
                        return member
                raise _DeclarationError(node, "class Predictor has no method `run`")
        raise _DeclarationError(self.tree, "there is no class Predictor")

    def _arguments(self, method: ast.FunctionDef) -> list[tuple[ast.arg, ast.expr]]:
        a = method.args
        self_and_inputs = len(a.args) == len(a.defaults) + 1 and a.args[0].arg == "self"
        if a.posonlyargs or a.kwonlyargs or a.vararg or a.kwarg or not self_and_inputs:
            raise _DeclarationError(method, f"{method.name} takes `self` and arguments `name: type = Input(...)` only")
        return list(zip(a.args[1:], a.defaults, strict=True))

    def _input(self, argument: ast.arg, value: ast.expr) -> tuple[Schema, Schema | None]:
        """Return the schemas of an input and of its choices."""
        name = argument.arg
        if argument.annotation is None:
            raise _DeclarationError(argument, f"{name} has no type")
        kind, nullable = self._type(argument.annotation)
        field: Schema = {"title": " ".join(word.capitalize() for word in name.split("_")), **kind}
        if nullable:
            field["nullable"] = True
        if not (isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "Input"):
            raise _DeclarationError(value, f"{name} is not declared as `{name}: type = Input(...)`")
        for keyword in [*value.args, *value.keywords]:
            if not isinstance(keyword, ast.keyword) or keyword.arg not in _KEYWORDS:
                raise _DeclarationError(keyword, f"Input of {name}: write only {', '.join(_KEYWORDS)}, by name")
            field[_KEYWORDS[keyword.arg]] = self._literal(name, keyword)
        self._check(name, value, field, nullable)
        if "enum" not in field:
            return field, None
        del field["title"]
        choices = {"enum": field.pop("enum"), "type": field.pop("type")}
        return {"allOf": [{"$ref": f"#/components/schemas/{name}"}], **field}, choices

    def _check(self, name: str, node: ast.AST, field: Schema, nullable: bool) -> None:
        """Raise for choices or a default that Cog refuses."""
        if "enum" in field and (not isinstance(field["enum"], list) or not field["enum"] or field["type"] == "array"):
            raise _DeclarationError(node, f"choices of {name} must be a list with values, and {name} a single value")
        default = field.get("default", ...)
        if default is ... or (default is None and nullable):
            return
        if default is None:
            raise _DeclarationError(node, f"{name} has the default None but is not Optional: Cog makes it required")
        if field.get("format") == "uri":
            raise _DeclarationError(node, f"{name} is a file and cannot have a default")
        for error in Draft4Validator(field).iter_errors(default):
            raise _DeclarationError(node, f"default of {name}: {error.message}")

    def _literal(self, name: str, keyword: ast.keyword) -> Any:
        """Return the value of a literal. Raises for one that Cog's parser does not read as Python does."""
        text = (ast.get_source_segment(self.source, keyword) or "").partition("=")[2].strip()
        if not _LITERAL.fullmatch(text):
            raise _DeclarationError(
                keyword,
                f"{keyword.arg} of {name} is not a literal that Cog reads correctly; write one string without escapes, "
                "a plain number, True, False, None, or a list of these without comments",
            )
        value = ast.literal_eval(text)
        # Go writes 1.0 as 1, and the server quotes the number in its messages.
        return int(value) if isinstance(value, float) and value.is_integer() else value

    def _type(self, node: ast.expr) -> tuple[Schema, bool]:
        """Return the schema of an annotation, and whether it may be None."""
        if isinstance(node, ast.Name) and node.id in _PRIMITIVES:
            if node.id == "Path" and "Path" not in self.from_cog:
                raise _DeclarationError(node, "Path is not imported from cog")
            return dict(_PRIMITIVES[node.id]), False
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
            if node.value.id == "Optional":
                return self._type(node.slice)[0], True
            if node.value.id in ("list", "List"):
                items, nullable = self._type(node.slice)
                if not nullable and items["type"] != "array":
                    return {"type": "array", "items": items}, False
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr) and ast.unparse(node.right) == "None":
            return self._type(node.left)[0], True
        raise _DeclarationError(
            node, f"{ast.unparse(node)} is not supported; write str, int, float, bool, Path, list[...] or Optional[...]"
        )

    def _output(self, method: ast.FunctionDef) -> Schema:
        node = method.returns
        if node is None:
            raise _DeclarationError(method, f"{method.name} has no return type")
        if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "Iterator":
            return {"type": "array", "items": self._type(node.slice)[0], "x-cog-array-type": "iterator"}
        kind, nullable = self._type(node)
        if nullable:
            raise _DeclarationError(node, "an output cannot be Optional")
        return kind
