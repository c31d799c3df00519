"""The trainer's own file of Reports, read as it grows."""

from pathlib import Path

from pydantic import ValidationError

from finetune_api.report import Report


class Tail:
    """Reads what is appended to a metrics file from now on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = path.stat().st_size if path.exists() else 0
        self._newest: Report | None = None

    def newest(self) -> Report | None:
        """The last Report that was appended, if any."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                lines = file.read()
        except FileNotFoundError:
            return self._newest
        # The last line may still be being written.
        complete = lines[: lines.rfind(b"\n") + 1]
        self._offset += len(complete)
        for line in complete.splitlines()[::-1]:
            try:
                self._newest = Report.model_validate_json(line)
            except ValidationError:
                # Its writer was killed in the middle of it.
                continue
            break
        return self._newest
