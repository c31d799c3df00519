"""The trainer on this machine: a command, for its package is none of the operator's."""

import importlib.util
import shutil
import sys
from pathlib import Path

COMMAND = "finetune-trainer"
HINT = "Install it with: pip install 'finetune-operator[trainer]'"


def find() -> str | None:
    """The path of the trainer's command, in this environment or else on the PATH; None where it is not installed."""
    beside = Path(sys.executable).with_name(COMMAND)
    # The command comes with every installation, and what it needs only with the extra.
    if beside.exists() and importlib.util.find_spec("torch") is not None:
        return str(beside)
    elsewhere = shutil.which(COMMAND)
    if elsewhere is None or (beside.exists() and Path(elsewhere).samefile(beside)):
        return None
    return elsewhere
