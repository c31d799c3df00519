"""What training data tells a plan."""

import json
from pathlib import Path

from finetune_api.facts import DataFacts
from finetune_operator.cli.diagnostics import SCHEMA, Diagnostic, error
from finetune_operator.cli.errors import CommandError

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class FaultyDataError(Exception):
    """Lines of a file are no samples."""

    def __init__(self, diagnostics: list[Diagnostic]) -> None:
        self.diagnostics = diagnostics


def data_facts(file: Path) -> DataFacts:
    """What is known of a JSONL file by reading it: how many samples it has.

    Raises FaultyDataError with every line that is neither an object nor blank, and CommandError when the file cannot be
    read or has no sample at all.
    """
    samples, faults = 0, []
    try:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                text = line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line
                if not text.strip():
                    continue
                samples += 1
                if fault := _fault(text):
                    faults.append(error(str(file), number, SCHEMA, "", fault))
    except OSError as failure:
        raise CommandError(f"{file}: {failure.strerror}") from failure
    if faults:
        raise FaultyDataError(faults)
    if samples == 0:
        raise CommandError(f"{file}: there is no sample in it")
    return DataFacts(samples=samples)


def _fault(text: bytes) -> str | None:
    try:
        row = json.loads(text)
    except UnicodeDecodeError as fault:
        return f"is not UTF-8 ({fault.reason} at byte {fault.start})"
    except ValueError as fault:
        return f"is not JSON ({fault})"
    except RecursionError:
        return "is nested too deeply"
    return None if isinstance(row, dict) else "must be an object: one sample per line"
