"""Kinds of values that several fields of the spec share, each with its rule for both sides."""

import re
from decimal import Decimal
from typing import Annotated, Any

from pydantic import AfterValidator, Field


def cel(rule: str, message: str) -> dict[str, Any]:
    """A rule of one field for the API server, as a piece of its JSON schema."""
    return {"x-kubernetes-validations": [{"rule": rule, "message": message}]}


_INSIDE_VOLUME = "must be relative to the volume's root and must not contain '..' or control characters"
_CONTROL_CHARACTER = r"[\x00-\x1f\x7f]"


def _inside_volume(path: str) -> str:
    if path.startswith("/") or ".." in path.split("/") or re.search(_CONTROL_CHARACTER, path):
        raise ValueError(_INSIDE_VOLUME)
    return path


MAX_PATH_LENGTH = 512
# A name as Kubernetes has them: labels of lower-case letters, digits and inner dashes, with dots between them.
SUBDOMAIN = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"

# What a namespace is called.
DNS_LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"

ClaimName = Annotated[str, Field(min_length=1, max_length=253, pattern=f"^{SUBDOMAIN}$", examples=["models"])]
VolumePath = Annotated[
    str,
    Field(
        min_length=1,
        max_length=MAX_PATH_LENGTH,
        # The same rule as _inside_volume, for the API server: RE2 has no look-ahead, so CEL says it.
        json_schema_extra=cel(
            "!self.startsWith('/') && !self.split('/').exists(part, part == '..') "
            f"&& !self.matches(r'{_CONTROL_CHARACTER}')",
            _INSIDE_VOLUME,
        ),
    ),
    AfterValidator(_inside_volume),
]
Quantity = Annotated[
    str,
    Field(
        min_length=1,
        max_length=32,
        pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$",
        examples=["500m", "16Gi"],
    ),
]

_UNITS = {
    "m": Decimal("0.001"),
    "": Decimal(1),
    "k": Decimal(10**3),
    "M": Decimal(10**6),
    "G": Decimal(10**9),
    "T": Decimal(10**12),
    "P": Decimal(10**15),
    "Ki": Decimal(2**10),
    "Mi": Decimal(2**20),
    "Gi": Decimal(2**30),
    "Ti": Decimal(2**40),
    "Pi": Decimal(2**50),
}


def amount(quantity: str) -> Decimal:
    """The number that a Kubernetes quantity stands for: bytes, cores. Raises ValueError for what is none."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([a-zA-Z]*)", quantity)
    if found is None or found[2] not in _UNITS:
        raise ValueError(f"{quantity!r} is not a Kubernetes quantity such as 500m or 16Gi")
    return Decimal(found[1]) * _UNITS[found[2]]
