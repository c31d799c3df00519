"""What training data tells a plan: how many samples there are, or all that training would find."""

import json
import subprocess
import tempfile
from pathlib import Path

from finetune_api import names
from finetune_api.facts import DataFacts
from finetune_api.measured import Measured
from finetune_api.runconfig import Locations, run_config
from finetune_api.spec import FineTuneJob
from finetune_operator.cli.diagnostics import SCHEMA, Diagnostic, error
from finetune_operator.cli.errors import CommandError
from finetune_operator.cli.local import trainer
from finetune_operator.cli.local.identity import run_uid

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class FaultyDataError(Exception):
    """Lines of a file are no samples."""

    def __init__(self, diagnostics: list[Diagnostic]) -> None:
        self.diagnostics = diagnostics


def obstacle(job: FineTuneJob, model: Path | None) -> str | None:
    """Why the lengths of a job's samples cannot be measured here; None if they can."""
    if job.spec.hyperparameters.pretraining is not None:
        return "documents are not measured yet"
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
    """What the trainer finds in a JSONL file, for this job and the tokenizer in the model's directory.

    Raises CommandError with what is wrong with the data.
    """
    command = trainer.find()
    assert command is not None
    job = job.model_copy(update={"metadata": job.metadata.model_copy(update={"uid": run_uid(job)})})
    with tempfile.TemporaryDirectory(prefix="finetune-") as scratch:
        places = Locations(model=str(model.absolute()), train=str(file.absolute()), storage=scratch)
        config = Path(scratch) / names.RUN_CONFIG_FILE
        config.write_text(run_config(job, places, None).to_json())
        done = subprocess.run(
            [command, "measure", "--config", str(config)], capture_output=True, text=True, check=False
        )
    if done.returncode != 0:
        raise CommandError(done.stderr.strip().removeprefix(f"{trainer.COMMAND}: "))
    return Measured.model_validate_json(done.stdout).facts


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
