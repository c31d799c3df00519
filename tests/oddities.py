"""Values that a structural schema allows, the odd ones first: what nobody writes, and anybody may."""

import sys
from typing import Any

from hypothesis import strategies as st

from finetune_api.crd import structural_schema
from finetune_api.report import Report

Wire = dict[str, Any]

LARGEST = sys.float_info.max
TIMES = (
    *(
        "0001-01-01T00:00:00Z",
        "9999-12-31T23:59:59Z",
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-14:00",
    ),
    *("2026-01-01T12:00:00Z", "2026-01-01T12:00:05.123456+14:00"),
)


def allowed(schema: Wire) -> st.SearchStrategy[Any]:
    """Values that a structural schema allows, the odd ones first."""
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    match schema["type"]:
        case "boolean":
            return st.booleans()
        case "integer":
            low, high = schema.get("minimum", -(2**63)), schema.get("maximum", 2**63 - 1)
            return st.sampled_from([low, high, *(near for near in (-2, -1, 0, 1, 2) if low <= near <= high)])
        case "number":
            return st.sampled_from([0.0, 1.0, -1.5, 1e308, LARGEST, -LARGEST, 5e-324])
        case "string" if schema.get("format") == "date-time":
            return st.sampled_from(TIMES)
        case "string":
            least, most = schema.get("minLength", 0), min(schema.get("maxLength", 5), 5)
            if pattern := schema.get("pattern"):
                return st.from_regex(pattern, fullmatch=True).filter(lambda text: len(text) <= 63)
            return st.text("aé\x00\n漢😀", min_size=least, max_size=max(least, most))
        case "array":
            keys = schema.get("x-kubernetes-list-map-keys", ())
            apart = (lambda item: tuple(item.get(key) for key in keys)) if keys else None
            return st.lists(allowed(schema["items"]), max_size=2, unique_by=apart)
    properties = {name: allowed(child) for name, child in schema.get("properties", {}).items()}
    required = {name: properties.pop(name) for name in schema.get("required", [])}
    return st.fixed_dictionaries(required, optional=properties)


def with_whole_curve(wire: Wire) -> Wire:
    """A Report the lists of whose curve are as long as they have to be: its rules are no part of a schema."""
    curve = wire.get("curve")
    if curve:
        steps = len(curve.get("steps", []))
        for name in ("loss", "learningRate", "tokensPerSecond"):
            curve[name] = [*curve.get(name, []), *steps * [LARGEST]][:steps]
        curve["validationLoss"] = [-LARGEST] * len(curve.get("validationSteps", []))
    return wire


def reports() -> st.SearchStrategy[Wire]:
    """Reports of any kind, as they travel."""
    return allowed(structural_schema(Report)).map(with_whole_curve)
