"""Results to upload, and the process that does it."""

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_api import names
from finetune_api.publish import Publish
from finetune_api.report import Report
from finetune_trainer import commit
from finetune_trainer.storage import Storage, claim
from trainer.gangs import config

MIB = 1 << 20
# Seconds for libraries to be imported on a busy machine.
PATIENCE = 180


@dataclass(frozen=True)
class Trained:
    """A run that is done."""

    base: Path
    storage: Storage

    def publish(self, environment: Mapping[str, str], **publish: Any) -> "Ended":
        """Upload it as a pod would, with credentials from the environment."""
        stated = Publish.model_validate(publish)
        run = config(self.base).model_copy(update={"publish": stated})
        file = self.base / "publish.json"
        file.write_text(run.to_json())
        message = self.base / "message.json"
        message.touch()
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "HF_"))}
        done = subprocess.run(
            [str(Path(sys.executable).with_name("finetune-trainer")), "publish", "--config", str(file)],
            env=clean | {names.ENV_TERMINATION_LOG: str(message)} | dict(environment),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        return Ended(done.returncode, Report.from_json(message.read_bytes()), done.stdout + done.stderr)


@dataclass(frozen=True)
class Ended:
    """How an upload ended."""

    exit_code: int
    report: Report
    output: str

    @property
    def message(self) -> str:
        """Why it failed."""
        assert self.report.failure is not None, self.output
        return self.report.failure.message


def trained(base: Path, files: Mapping[str, bytes], merged: Mapping[str, bytes] | None = None) -> Trained:
    """A run with these files as its result, and others that are none of it."""
    run = config(base)
    claim(run, node=0)
    storage = Storage.of(run)
    facts: dict[str, Any] = {"format": "adapter" if merged else "model", "step": 36}
    adapter = _complete(storage, storage.output, files, facts)
    if merged:
        digests = {name: record.sha256 for name, record in adapter.files.items()}
        _complete(storage, storage.merged, merged, {"adapter": digests})
    state = storage.state_after(36)
    state.mkdir(parents=True)
    (state / "optimizer.safetensors").write_bytes(b"state")
    (storage.output / "left-by-somebody").write_bytes(b"no manifest names it")
    return Trained(base, storage)


def _complete(
    storage: Storage, final: Path, files: Mapping[str, bytes], facts: Mapping[str, Any]
) -> commit.Manifest:
    with commit.writing(final) as directory:
        for name, content in files.items():
            (directory / name).write_bytes(content)
        sealed = commit.sealed(directory.iterdir(), lambda: None)
        return commit.publish(final, uid=storage.uid, files=sealed, facts=facts)
