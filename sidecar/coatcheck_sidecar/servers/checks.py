"""A body against the shape that the document gives it: the few words of JSON Schema used there."""

import re
from collections.abc import Mapping
from typing import Any, Final

from coatcheck_sidecar.core.session import malformed

KINDS: Final[Mapping[str, tuple[type, ...]]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
}


def check(value: Any, schema: Mapping[str, Any], *, where: str) -> None:
    """Raises `Refusal` that names the place, what is there and what should be."""
    kind = schema.get("type")
    if kind is not None and type(value) not in KINDS[kind]:
        raise malformed(f"{where} is {value!r:.40}, not of type {kind}")
    match value:
        case dict() if kind == "object":
            _check_map(value, schema, where=where)
        case list() if kind == "array":
            for at, item in enumerate(value):
                check(item, schema.get("items", {}), where=f"{where}[{at}]")
        case str():
            _check_text(value, schema, where=where)
        case int() | float():
            lowest, highest = schema.get("minimum", value), schema.get("maximum", value)
            if not lowest <= value <= highest:
                raise malformed(f"{where} is {value!r:.40}, out of its range")
        case _:
            pass


def _check_text(text: str, schema: Mapping[str, Any], *, where: str) -> None:
    if len(text) > schema.get("maxLength", len(text)):
        raise malformed(f"{where} has {len(text)} of {schema['maxLength']} characters")
    if "enum" in schema and text not in schema["enum"]:
        raise malformed(f"{where} is {text!r:.40}, not one of {schema['enum']}")
    if "pattern" in schema and not re.fullmatch(schema["pattern"], text):
        raise malformed(f"{where} is {text!r:.140}, which must match {schema['pattern']}")


def _check_map(value: Mapping[str, Any], schema: Mapping[str, Any], *, where: str) -> None:
    known: Mapping[str, Any] = schema.get("properties", {})
    others = schema.get("additionalProperties", {})
    for name in schema.get("required", ()):
        if name not in value:
            raise malformed(f"{where}: field {name!r} is missing")
    for name, item in value.items():
        if name not in known and others is False:
            raise malformed(f"{where}: there is no field {name!r:.40}; it takes {sorted(known)}")
        check(item, known.get(name, others), where=f"{where}: {name!r:.40}")
