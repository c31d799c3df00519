"""Pure: what a projected service-account token says of itself. Nobody is believed for that, but many can be refused."""

import base64
import re
from dataclasses import dataclass
from typing import Any, Self

from pydantic_core import from_json

# The API server's own have about 1,000.
MAX_TOKEN_LENGTH = 4096
_JWT = re.compile(r"[\w-]+\.(?P<payload>[\w-]+)\.[\w-]+", re.ASCII)


@dataclass(frozen=True)
class Claims:
    """The part of a token that the signature is about; only the API server can tell whether that is valid."""

    audiences: tuple[str, ...]
    namespace: str
    """Where it was issued; empty if it does not say so."""
    pod: str
    """The pod that it is bound to; empty if it is bound to none."""
    expiry: int
    """In seconds since 1970."""

    @classmethod
    def of(cls, token: str) -> Self:
        """Read a token. Raises ValueError for what is no token of a service account."""
        found = _JWT.fullmatch(token) if len(token) <= MAX_TOKEN_LENGTH else None
        if found is None:
            raise ValueError("it is no JSON Web Token of the API server")
        payload = found["payload"]
        wire = from_json(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        audiences, about = _get(wire, "aud", list), _get(wire, "kubernetes.io", dict)
        return cls(
            audiences=tuple(one for one in audiences if isinstance(one, str)),
            namespace=_get(about, "namespace", str),
            pod=_get(_get(about, "pod", dict), "name", str),
            expiry=_get(wire, "exp", int),
        )


def _get(wire: Any, name: str, kind: type) -> Any:
    """A part of the kind that it ought to be; an empty one where there is none."""
    found = wire.get(name) if isinstance(wire, dict) else None
    return found if isinstance(found, kind) else kind()
