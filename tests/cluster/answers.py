"""What the API server would say to a FineTuneJob, asked thousands of times."""

import json
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from cluster.kube import FINETUNEJOBS, Kube, RefusedError, Wire


@dataclass(frozen=True)
class Answer:
    """What the API server says to a FineTuneJob."""

    stored: Wire | None
    """What it would store, with defaults filled in; None where it refuses."""
    fields: frozenset[str] = frozenset()
    """The fields that it refuses."""
    only_unknown: bool = False
    """It found fields that do not exist, and looked no further."""
    rules_checked: bool = True
    """It looked at rules in CEL, too: it does not where types are wrong."""
    text: str = ""


class ApiServer:
    """Asks what the API server would say, several questions at a time."""

    def __init__(self, kube: Kube) -> None:
        self.kube = kube
        self._pool = ThreadPoolExecutor(4)

    def ask(self, wire: Wire) -> Answer:
        path = FINETUNEJOBS.format(namespace="default")
        try:
            return Answer(self.kube.request("POST", path, wire, dryRun="All", fieldValidation="Strict"))
        except RefusedError as error:
            status = json.loads(str(error).split(": ", 1)[1])
        assert status["code"] in (400, 422), status
        text = status["message"]
        if "expected int, got float64" in text:
            plain = without_points(wire)
            # 2147483647.5 is none, but with its nine digits it passes for one until a rule looks at it.
            if json.dumps(plain) != json.dumps(wire):
                return self.ask(plain)
        if unknown := re.findall(r'unknown field "([^"]*)"', text):
            return Answer(None, frozenset(unknown), only_unknown=True, text=text)
        causes = status.get("details", {}).get("causes", [])
        fields = frozenset(cause["field"] for cause in causes if cause["field"] != "<nil>")
        return Answer(None, fields, rules_checked="rules were not checked" not in text, text=text)

    def ask_all(self, wires: Sequence[Wire]) -> Iterable[tuple[Wire, Answer]]:
        return zip(wires, self._pool.map(self.ask, wires), strict=True)


def without_points(value: Any) -> Any:
    """The same with whole numbers as integers."""
    if isinstance(value, dict):
        return {key: without_points(part) for key, part in value.items()}
    if isinstance(value, list):
        return [without_points(part) for part in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
