"""What schemathesis makes of the report endpoint's OpenAPI document: requests that keep to it, and others."""

from collections.abc import Mapping
from typing import Any

import schemathesis
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.core import NOT_SET

from finetune_api import names
from finetune_api.openapi import report_endpoint

POST = schemathesis.openapi.from_dict(report_endpoint())[names.report_path("{namespace}", "{name}")]["POST"]
CASES: Mapping[GenerationMode, st.SearchStrategy[Case[Any]]] = {
    mode: POST.as_strategy(mode) for mode in GenerationMode
}


def body_of(case: Case[Any]) -> Any:
    """Its body as JSON is written: whole numbers without a point, as far as they fit into 64 bits; None without one."""
    return None if case.body is NOT_SET else _written(case.body)


def _written(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _written(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_written(part) for part in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**63:
        return int(value)
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return float(value)
    return value
