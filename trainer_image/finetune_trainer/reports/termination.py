"""The last word of a container's first process."""

import os
from pathlib import Path

from finetune_api import names
from finetune_api.failure import ExitCode
from finetune_api.report import Report


def end(report: Report) -> int:
    """Write the termination message; returns the exit code that belongs to it."""
    chosen = os.environ.get(names.ENV_TERMINATION_LOG)
    target = Path(chosen or names.TERMINATION_LOG)
    # The kubelet makes its file before the container starts; without a kubelet there is none, and no reader.
    if chosen or target.exists():
        target.write_bytes(report.to_termination_message().encode())
    return report.failure.exit_code if report.failure else ExitCode.SUCCESS
