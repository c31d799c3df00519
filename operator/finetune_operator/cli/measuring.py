"""What training data tells a plan: how many samples there are, or all that training would find."""

import json
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from finetune_api import names
from finetune_api.evaluation import TRAIN
from finetune_api.facts import DataFacts
from finetune_api.measured import Measured
from finetune_api.runconfig import Locations, run_config
from finetune_api.sources import DATA_SUFFIXES
from finetune_api.spec import FineTuneJob
from finetune_operator.cli.diagnostics import SCHEMA, Diagnostic, error
from finetune_operator.cli.errors import CommandError
from finetune_operator.cli.local import trainer
from finetune_operator.cli.local.identity import run_uid

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Counted:
    """What is known of data without the tokenizer of a model."""

    samples: int
    """Lines that hold an object."""
    faults: list[Diagnostic]
    """The others, but for blank ones."""


def obstacle(model: Path | None) -> str | None:
    """Why the lengths of samples cannot be measured here; None if they can."""
    if (
        model is None
        or not model.is_dir()
        or not any((model / name).exists() for name in names.TOKENIZER_FILES)
    ):
        return (
            "only a model's directory with its tokenizer tells how long samples are; --model-config takes one"
        )
    if trainer.find() is None:
        return f"only {trainer.COMMAND} tells how long samples are. {trainer.HINT}"
    return None


def measured_facts(job: FineTuneJob, model: Path, file: Path) -> DataFacts:
    """What the trainer finds in a file of data, for this job and the tokenizer in the model's directory.

    Raises CommandError with what is wrong with the data.
    """
    command = trainer.find()
    assert command is not None
    job = job.model_copy(update={"metadata": job.metadata.model_copy(update={"uid": run_uid(job)})})
    with tempfile.TemporaryDirectory(prefix="finetune-") as scratch:
        places = Locations(model=str(model.absolute()), data={TRAIN: [str(file.absolute())]}, storage=scratch)
        config = Path(scratch) / names.RUN_CONFIG_FILE
        config.write_text(run_config(job, places, None).to_json())
        done = subprocess.run(
            [command, "measure", "--config", str(config)], capture_output=True, text=True, check=False
        )
    if done.returncode != 0:
        raise CommandError(done.stderr.strip().removeprefix(f"{trainer.COMMAND}: "))
    return Measured.model_validate_json(done.stdout).facts


def counted(file: Path) -> Counted | None:
    """What reading a file tells, line by line; None for a format that only the trainer reads.

    Raises CommandError when the file cannot be read, or its name tells no format.
    """
    suffix = file.suffix.lower()
    if suffix not in DATA_SUFFIXES:
        *others, last = DATA_SUFFIXES
        raise CommandError(f"{file}: the name must end in {', '.join(others)} or {last}")
    if suffix != ".jsonl":
        return None
    samples, faults = 0, []
    try:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                text = line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line
                if not text.strip():
                    continue
                if fault := _fault(text):
                    faults.append(error(str(file), number, SCHEMA, "", fault))
                else:
                    samples += 1
    except OSError as failure:
        raise CommandError(f"{file}: {failure.strerror}") from failure
    return Counted(samples, faults)


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
