"""YAML as kubectl reads it: what one of the two takes for a number, a boolean or a text, so does the other.

PyYAML and Go's yaml.v2, by which kubectl turns YAML into JSON, differ in what a plain scalar means: `5e-6` is a text to
the one and a number to the other, `1:30` is 90 to the one and a text to the other, `2024-01-01` is a date or a text.
"""

import math
import re
from typing import Any

import yaml

_TAG = "tag:yaml.org,2002:"
_TAGS: dict[type, str] = {
    type(None): f"{_TAG}null",
    bool: f"{_TAG}bool",
    int: f"{_TAG}int",
    float: f"{_TAG}float",
    str: f"{_TAG}str",
}
_NULLS = {"", "~", "null", "Null", "NULL"}
_TRUTHS = {
    word: truth
    for truth, words in ((True, ("y", "yes", "true", "on")), (False, ("n", "no", "false", "off")))
    for lower in words
    for word in (lower, lower.capitalize(), lower.upper())
}
_NOT_FINITE = {
    **dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan),
    **{sign + word: math.inf for sign in ("", "+") for word in (".inf", ".Inf", ".INF")},
    **{f"-{word}": -math.inf for word in (".inf", ".Inf", ".INF")},
}
# strconv.ParseInt with base 0: the prefix tells the base, and a leading 0 alone means octal.
_INTEGER = re.compile(r"([-+]?)(?:0[xX]([0-9a-fA-F]+)|0[bB]([01]+)|0[oO]?([0-7]+)|(0|[1-9][0-9]*))")
_BASES = (16, 2, 8, 10)
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")


class KubectlScalars(yaml.resolver.Resolver):
    """A Resolver with kubectl's reading of scalars."""

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> str:
        """The tag of a node that states none: for a plain scalar, by the look of it."""
        if kind is not yaml.ScalarNode or not implicit[0]:
            return str(super().resolve(kind, value, (False, True)))  # type: ignore[no-untyped-call]
        return f"{_TAG}merge" if value == "<<" else _TAGS[type(plain(value))]


class KubectlLoader(KubectlScalars, yaml.SafeLoader):
    """A SafeLoader with kubectl's reading of scalars."""


def plain(text: str) -> bool | int | float | str | None:
    """What kubectl takes a plain scalar for."""
    if text in _NULLS:
        return None
    if text in _TRUTHS:
        return _TRUTHS[text]
    if text in _NOT_FINITE:
        return _NOT_FINITE[text]
    if text[0] not in "+-.0123456789":
        return text
    # After a dot in front, underscores do not count as part of a number.
    digits = text if text.startswith(".") else text.replace("_", "")
    if (integer := _integer(digits)) is not None:
        return integer
    if _FLOAT.fullmatch(digits) and math.isfinite(number := float(digits)):
        return number
    return text


def _integer(digits: str) -> int | None:
    found = _INTEGER.fullmatch(digits)
    # Far more digits than 64 bits have, and more than Python would convert.
    if found is None or len(digits) > 100:
        return None
    sign, *by_base = found.groups()
    number = next(int(part, base) for part, base in zip(by_base, _BASES, strict=True) if part is not None)
    number = -number if sign == "-" else number
    return number if -(2**63) <= number < 2**63 else None


def _scalar(loader: KubectlLoader, node: yaml.ScalarNode) -> Any:
    value = plain(str(loader.construct_scalar(node)))
    if node.tag == _TAGS[float] and type(value) is int:
        return float(value)
    # Only a tag that was stated can differ from how the scalar looks.
    if node.tag != _TAGS[type(value)]:
        raise yaml.constructor.ConstructorError(
            None, None, f"{node.value!r} is not what its tag says", node.start_mark
        )
    return value


def _text(loader: KubectlLoader, node: yaml.ScalarNode) -> str:
    return str(loader.construct_scalar(node))


for _kind in (type(None), bool, int, float):
    KubectlLoader.add_constructor(_TAGS[_kind], _scalar)
# JSON has no dates.
KubectlLoader.add_constructor(f"{_TAG}timestamp", _text)
