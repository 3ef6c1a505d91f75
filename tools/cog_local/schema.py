"""The OpenAPI schema of a model, read from the text of its predict.py as `cog build` reads it.

Cog's server validates inputs only where `.cog/openapi_schema.json` is; `cog build` writes that file into an
image, and natively `cog_server` writes it with what is made here. predict.py is parsed, never imported. Cog's own
generator takes many forms of a declaration and misreads some of them silently; here one form is taken, which it
reads as Python does, and everything else is an error with its line:

    name: type = Input(literal arguments only)

The format is that of replicate/cog, pkg/schema/openapi.go; the literals that its parser reads rightly are those of
pkg/schema/python/literals.go: one string without escapes, a plain number, a list of these without comments.
"""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

Schema = dict[str, Any]

_PRIMITIVES: dict[str, Schema] = {
    "bool": {"type": "boolean"},
    "float": {"type": "number"},
    "int": {"type": "integer"},
    "str": {"type": "string"},
    "Path": {"type": "string", "format": "uri"},
}
PYTHON_TYPES: dict[str, Any] = {
    "boolean": bool,
    "number": (int, float),
    "integer": int,
    "string": str,
    "array": list,
}
_KEYWORDS = {  # Input's argument -> its name in the schema
    "default": "default",
    "description": "description",
    "ge": "minimum",
    "le": "maximum",
    "min_length": "minLength",
    "max_length": "maxLength",
    "regex": "pattern",
    "deprecated": "deprecated",
    "choices": "enum",
}
_NUMBER = r"-?\d+(?:\.\d*)?(?:e[+-]?\d+)?"
_STRING = r"""r?"[^"\\\n]*"|r?'[^'\\\n]*'|\"{3}(?:(?!\"{3})[^\\])+\"{3}"""
_SCALAR = rf"(?:None|True|False|{_NUMBER}|{_STRING})"
_LITERAL = re.compile(rf"{_SCALAR}|\[\s*(?:{_SCALAR}\s*(?:,\s*{_SCALAR}\s*)*,?\s*)?\]")


class SchemaError(Exception):
    """A predict.py that Cog would refuse or misread; the text begins with `FILE:LINE:`."""


def openapi_schema(predict_py: Path) -> Schema:
    """Read the OpenAPI 3.0.2 schema of `Predictor` from the text of predict.py; raise SchemaError."""
    source = predict_py.read_text("utf-8")
    try:
        return _Reader(source).schema()
    except _Fault as fault:
        raise SchemaError(f"{predict_py}:{fault.line}: {fault}") from None
    except SyntaxError as error:
        raise SchemaError(f"{predict_py}:{error.lineno}: {error.msg}") from None


class _Fault(Exception):
    def __init__(self, node: ast.AST, text: str) -> None:
        super().__init__(text)
        self.line = getattr(node, "lineno", 1)


class _Reader:
    """One pass over one predict.py."""

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
        streaming = any(ast.unparse(node) in ("streaming", "cog.streaming") for node in method.decorator_list)
        return _document({"Input": inputs, "Output": output, **enums}, streaming)

    def _method(self) -> ast.FunctionDef:
        for node in self.tree.body:
            if isinstance(node, ast.ClassDef) and node.name == "Predictor":
                for member in node.body:
                    if isinstance(member, ast.FunctionDef) and member.name in ("run", "predict"):
                        return member
                raise _Fault(node, "class Predictor has no method `run`")
        raise _Fault(self.tree, "there is no class Predictor")

    def _arguments(self, method: ast.FunctionDef) -> list[tuple[ast.arg, ast.expr | None]]:
        a = method.args
        if a.posonlyargs or a.kwonlyargs or a.vararg or a.kwarg or not a.args or a.args[0].arg != "self":
            raise _Fault(method, f"{method.name} takes `self` and plain arguments only")
        named = a.args[1:]
        return list(zip(named, [*[None] * (len(named) - len(a.defaults)), *a.defaults], strict=True))

    def _input(self, argument: ast.arg, value: ast.expr | None) -> tuple[Schema, Schema | None]:
        """Return an input's own schema, and that of its choices if it has any."""
        name = argument.arg
        if argument.annotation is None:
            raise _Fault(argument, f"{name} has no type")
        kind, nullable = self._type(argument.annotation)
        field: Schema = {"title": " ".join(word.capitalize() for word in name.split("_")), **kind}
        if nullable:
            field["nullable"] = True
        if value is None:
            return field, None
        if not (isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "Input"):
            raise _Fault(value, f"{name} is not declared as `{name}: type = Input(...)`")
        if value.args:
            raise _Fault(value, f"Input of {name} has an argument without a name")
        for keyword in value.keywords:
            if keyword.arg not in _KEYWORDS:
                raise _Fault(keyword, f"Input of {name} has an argument that Cog does not know: {keyword.arg}")
            field[_KEYWORDS[keyword.arg]] = self._literal(name, keyword)
        self._check_default(name, value, field, nullable)
        if field.get("deprecated") is False:
            del field["deprecated"]
        return self._with_choices(name, value, field)

    def _check_default(self, name: str, node: ast.AST, field: Schema, nullable: bool) -> None:
        default = field.get("default", ...)
        if default is ... or (default is None and nullable):
            return
        if default is None:
            raise _Fault(node, f"{name} has the default None but is not Optional: Cog makes it a required input")
        kind = field["type"]
        if not isinstance(default, PYTHON_TYPES[kind]) or (isinstance(default, bool) and kind != "boolean"):
            raise _Fault(node, f"the default of {name}, {default!r}, is no {kind}")
        if field.get("format") == "uri":
            raise _Fault(node, f"{name} is a file and cannot have a default")

    def _with_choices(self, name: str, node: ast.AST, field: Schema) -> tuple[Schema, Schema | None]:
        choices = field.pop("enum", None)
        if choices is None:
            return field, None
        if not isinstance(choices, list) or not choices or field["type"] == "array":
            raise _Fault(node, f"choices of {name} must be a list with values, and {name} no list")
        if "default" in field and field["default"] not in (*choices, None):
            raise _Fault(node, f"the default of {name}, {field['default']!r}, is none of its choices")
        del field["title"]
        kind = {"enum": choices, "type": field.pop("type")}
        return {"allOf": [{"$ref": f"#/components/schemas/{name}"}], **field}, kind

    def _literal(self, name: str, keyword: ast.keyword) -> Any:
        """Return the value of a literal that Cog's parser reads as Python does."""
        text = (ast.get_source_segment(self.source, keyword) or "").partition("=")[2].strip()
        if not _LITERAL.fullmatch(text):
            raise _Fault(
                keyword,
                f"{keyword.arg} of {name} is not a literal that Cog reads rightly: write one string without escapes, "
                "a plain number, True, False, None, or a list of these without comments",
            )
        value = ast.literal_eval(text)
        # Go writes 1.0 as 1, and messages of the server quote it.
        return int(value) if isinstance(value, float) and value.is_integer() else value

    def _type(self, node: ast.expr) -> tuple[Schema, bool]:
        """Return the schema of an annotation, and whether it may be None."""
        if isinstance(node, ast.Name) and node.id in _PRIMITIVES:
            if node.id == "Path" and "Path" not in self.from_cog:
                raise _Fault(node, "Path is not imported from cog")
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
        raise _Fault(
            node, f"{ast.unparse(node)} is none of str, int, float, bool, Path, list[...] and Optional[...] of these"
        )

    def _output(self, method: ast.FunctionDef) -> Schema:
        node = method.returns
        if node is None:
            raise _Fault(method, f"{method.name} has no return type")
        if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "Iterator":
            return {"type": "array", "items": self._type(node.slice)[0], "x-cog-array-type": "iterator"}
        kind, nullable = self._type(node)
        if nullable:
            raise _Fault(node, "an output cannot be Optional")
        return kind


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _titled(name: str, properties: Schema, **more: Any) -> Schema:
    return {"title": name, "type": "object", "properties": properties, **more}


def _response(schema: Schema, text: str = "Successful Response") -> Schema:
    return {"description": text, "content": {"application/json": {"schema": schema}}}


def _document(schemas: dict[str, Schema], streaming: bool) -> Schema:
    """Put the parts that are the same for all models around the model's own schemas."""
    text = {"type": "string"}
    moment = {"type": "string", "format": "date-time"}
    invalid = _response(_ref("HTTPValidationError"), "Validation Error")
    identifier = {"title": "Prediction Id", "type": "string"}
    predict: Schema = {
        "summary": "Predict",
        "description": "Run a single prediction on the model",
        "operationId": "predict_predictions_post",
        "requestBody": {"content": {"application/json": {"schema": _ref("PredictionRequest")}}},
        "responses": {"200": _response(_ref("PredictionResponse")), "422": invalid},
    }
    if streaming:
        predict["x-cog-streaming"] = True
    response = {
        "input": _ref("Input"),
        "output": _ref("Output"),
        "id": {"title": "Id", **text},
        "version": {"title": "Version", **text},
        "created_at": {"title": "Created At", **moment},
        "started_at": {"title": "Started At", **moment},
        "completed_at": {"title": "Completed At", **moment},
        "status": {"title": "Status", **text},
        "error": {"title": "Error", **text},
        "logs": {"title": "Logs", **text},
        "metrics": {"title": "Metrics", "type": "object"},
    }
    location = {"title": "Location", "type": "array", "items": {"anyOf": [text, {"type": "integer"}]}}
    fault = {"loc": location, "msg": {"title": "Message", **text}, "type": {"title": "Error Type", **text}}
    statuses = ["starting", "processing", "succeeded", "canceled", "failed"]
    return {
        "openapi": "3.0.2",
        "info": {"title": "Cog", "version": "0.1.0"},
        "paths": {
            "/": {"get": {"summary": "Root", "operationId": "root__get", "responses": {"200": _response({})}}},
            "/health-check": {
                "get": {
                    "summary": "Healthcheck",
                    "operationId": "healthcheck_health_check_get",
                    "responses": {"200": _response({})},
                }
            },
            "/predictions": {"post": predict},
            "/predictions/{prediction_id}/cancel": {
                "post": {
                    "summary": "Cancel",
                    "operationId": "cancel_predictions__prediction_id__cancel_post",
                    "parameters": [{"required": True, "schema": identifier, "name": "prediction_id", "in": "path"}],
                    "responses": {"200": _response({}), "422": invalid},
                }
            },
        },
        "components": {
            "schemas": {
                **schemas,
                "PredictionRequest": _titled(
                    "PredictionRequest", {"id": {"title": "Id", **text}, "input": _ref("Input")}
                ),
                "PredictionResponse": _titled("PredictionResponse", response),
                "Status": {"title": "Status", "description": "An enumeration.", "enum": statuses, "type": "string"},
                "HTTPValidationError": _titled(
                    "HTTPValidationError",
                    {"detail": {"title": "Detail", "type": "array", "items": _ref("ValidationError")}},
                ),
                "ValidationError": _titled("ValidationError", fault, required=["loc", "msg", "type"]),
            }
        },
    }
