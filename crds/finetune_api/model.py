"""The base of all API models, and rules that hold both in Python and in the API server."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic_core import CoreSchema, core_schema


@dataclass(frozen=True)
class Rule:
    """A cross-field rule, written once for each side: `cel` for the API server, `holds` for everyone else.

    `holds` takes the validated model. `message` names the remedy; it is what a user reads in the terminal.
    """

    cel: str
    message: str
    holds: Callable[[Any], bool]


class ListMap:
    """Of a list: the API server tells its items apart by these fields, and refuses two that are alike in all."""

    def __init__(self, *keys: str) -> None:
        self._keys = keys

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return handler(schema) | {
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": list(self._keys),
        }

    def _check(self, items: list[Any]) -> list[Any]:
        known = set()
        for item in items:
            found = tuple(getattr(item, key) for key in self._keys)
            if found in known:
                alike = ", ".join(f"{key} {value!r}" for key, value in zip(self._keys, found, strict=True))
                raise ValueError(f"must not have two items with {alike}")
            known.add(found)
        return items


class ApiModel(BaseModel):
    """Camel case on the wire, snake case in Python; unknown fields are errors, never ignored."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )

    rules: ClassVar[tuple[Rule, ...]] = ()

    @model_validator(mode="after")
    def _rules_hold(self) -> Self:
        broken = [rule.message for rule in self.rules if not rule.holds(self)]
        if broken:
            raise ValueError("; ".join(broken))
        return self

    def to_wire(self) -> dict[str, Any]:
        """The JSON-ready form: camel case, absent rather than null."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class SpecModel(ApiModel):
    """What users write is read as the API server reads it: '2' is not 2, but 2.0 is, and null is absent."""

    model_config = ConfigDict(strict=True)

    @model_validator(mode="before")
    @classmethod
    def _as_the_api_server_reads(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        known = {field.alias for field in cls.model_fields.values()}
        return {
            key: _json_number(part) for key, part in value.items() if part is not None or key not in known
        }


def _json_number(value: Any) -> Any:
    """JSON has one kind of numbers: a whole one is an integer, however it is written."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _finite_or_none(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


# JSON has no NaN and no Infinity: a measurement that is neither is absent.
FiniteFloat = Annotated[float | None, BeforeValidator(_finite_or_none)]
