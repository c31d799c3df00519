"""What is remembered of a cluster between two commands."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

RECORD_FILE = "cluster.json"


@dataclass(frozen=True)
class Record:
    """Of which kind the cluster is, and what that kind needs to find it again."""

    kind: str
    details: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, directory: Path) -> Record | None:
        """The record of the cluster in `directory`; None when there is no cluster."""
        try:
            return cls(**json.loads((directory / RECORD_FILE).read_text()))
        except FileNotFoundError:
            return None

    def save(self, directory: Path) -> None:
        """Keep the record in `directory`."""
        directory.mkdir(parents=True, exist_ok=True)
        partial = directory / f"{RECORD_FILE}.partial"
        partial.write_text(json.dumps(asdict(self), indent=2) + "\n")
        partial.replace(directory / RECORD_FILE)
