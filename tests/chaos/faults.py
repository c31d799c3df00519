"""Pure: what can go wrong between the operator and its API server, and which requests it happens to."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

Wire = dict[str, Any]


@dataclass(frozen=True)
class Asked:
    """A request of the operator."""

    method: str
    path: str
    query: Mapping[str, str]
    body: bytes = b""
    time: float = field(default_factory=time.monotonic)
    """When it came, by the monotonic clock of this process."""

    @property
    def parts(self) -> list[str]:
        """The path behind the group and version: plural, and maybe name and subresource, with no namespace."""
        parts = self.path.strip("/").split("/")
        parts = parts[2:] if parts[0] == "api" else parts[3:]
        return parts[2:] if parts[:1] == ["namespaces"] and len(parts) > 2 else parts

    @property
    def resource(self) -> str:
        """What it is about: a plural, with the subresource where there is one (`finetunejobs/status`)."""
        return "/".join(self.parts[:1] + self.parts[2:])

    @property
    def name(self) -> str | None:
        """The object's, where the path names one."""
        return self.parts[1] if len(self.parts) > 1 else None

    @property
    def is_write(self) -> bool:
        """Whether it would change something."""
        return self.method != "GET" and "dryRun" not in self.query and self.resource != "tokenreviews"

    @property
    def is_watch(self) -> bool:
        """Whether its answer goes on for ever."""
        return self.query.get("watch") == "true"

    @property
    def is_list(self) -> bool:
        """Whether it asks for many objects, once."""
        return self.method == "GET" and not self.is_watch and len(self.parts) == 1


@dataclass(frozen=True)
class Crash:
    """The process is killed: before the request has reached the API server, or after it took effect."""

    after: bool = False


@dataclass(frozen=True)
class Cut:
    """The connection breaks: before the request has reached the API server, or after it took effect."""

    after: bool = False


@dataclass(frozen=True)
class Hang:
    """No answer comes, and the request does not reach the API server."""


@dataclass(frozen=True)
class Hold:
    """It reaches the API server when this is true, and not before."""

    until: Callable[[], bool]


@dataclass(frozen=True)
class Answer:
    """An answer that is not the API server's, which never sees the request."""

    status: int
    body: bytes = b'{"kind":"Status","apiVersion":"v1","status":"Failure","message":"a fault of the test"}'
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def busy(cls, seconds: int) -> "Answer":
        """Too many requests: come again after so many seconds."""
        return cls(429, headers={"Retry-After": str(seconds)})


Fault = Crash | Cut | Hang | Hold | Answer


@dataclass(frozen=True)
class Rule:
    """Requests that a fault happens to: after the first `skip`, the next `times` of them (None: all the others)."""

    matches: Callable[[Asked], bool]
    fault: Fault
    times: int | None = 1
    skip: int = 0


def chosen(rules: Sequence[Rule], asked: Asked) -> tuple[Fault | None, tuple[Rule, ...]]:
    """What happens to a request, and the rules as they are after it. The first rule that is due decides."""
    left: list[Rule] = []
    fault: Fault | None = None
    for rule in rules:
        if fault is not None or not rule.matches(asked):
            left.append(rule)
        elif rule.skip:
            left.append(replace(rule, skip=rule.skip - 1))
        else:
            fault = rule.fault
            if rule.times is None:
                left.append(rule)
            elif rule.times > 1:
                left.append(replace(rule, times=rule.times - 1))
    return fault, tuple(left)


# What a rule may be about


def anything(asked: Asked) -> bool:
    """Every request."""
    return True


def writes(asked: Asked) -> bool:
    """Every request that would change something."""
    return asked.is_write


def asks(method: str, resource: str) -> Callable[[Asked], bool]:
    """Requests of this method about this resource, no watches."""
    return lambda asked: (asked.method, asked.resource) == (method, resource) and not asked.is_watch


def watches(resource: str | None = None) -> Callable[[Asked], bool]:
    """Requests for a watch: of this resource, or of any."""
    return lambda asked: asked.is_watch and resource in (None, asked.resource)


def error_event(code: int, reason: str) -> Wire:
    """What a watch says last when the API server gives it up."""
    status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason}
    return {"type": "ERROR", "object": status | {"message": f"a fault of the test: {reason}"}}


GONE = error_event(410, "Expired")
