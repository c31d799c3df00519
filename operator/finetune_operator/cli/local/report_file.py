"""The trainer's newest Report, as it lies on the storage volume."""

import os
from datetime import UTC, datetime
from pathlib import Path

from finetune_api.report import Report


class ReportFile:
    """Reads the Reports that are written from now on; each takes the place of the one before."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read: tuple[int, int] | None = None
        self._newest: tuple[Report, datetime] | None = None
        if path.exists():
            self._read = _version(path.stat())

    def newest(self) -> tuple[Report, datetime] | None:
        """The newest Report, and when it was written; None if none was."""
        try:
            with self._path.open("rb") as file:
                found = os.fstat(file.fileno())
                if _version(found) != self._read:
                    written = datetime.fromtimestamp(found.st_mtime, UTC).replace(microsecond=0)
                    self._newest = Report.from_json(file.read()), written
                    self._read = _version(found)
        except FileNotFoundError:
            # Not yet, or somebody cleared the directory.
            pass
        return self._newest


def _version(found: os.stat_result) -> tuple[int, int]:
    return found.st_ino, found.st_mtime_ns
