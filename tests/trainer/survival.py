"""Runs that are hit on their way, and what must hold of them at every moment and in the end."""

import hashlib
import json
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from finetune_api import names
from finetune_api.failure import ExitCode
from finetune_api.report import Report, Stage
from finetune_api.runconfig import RunConfig
from finetune_api.spec import Checkpoints
from tiny import save_tiny_model
from trainer import forked, gangs
from trainer.faults import Fault, Moment

SAMPLES, BATCH, EPOCHS = 15, 4, 3
STEPS_PER_EPOCH, STEPS = 4, 12
HYPERPARAMETERS: dict[str, Any] = {
    "learningRate": 1e-3,
    "effectiveBatchSize": BATCH,
    "numEpochs": EPOCHS,
    "maxSeqLen": 128,
    # Several micro-batches a step.
    "maxTokensPerGpu": 128,
    "weightDecay": 0.1,
    "warmupSteps": 3,
    # Large enough for rounding not to decide what a weight without a gradient worth mentioning does.
    "eps": 1e-5,
}
# How long the peers of a process that died get to notice. Then they are taken away, as the operator does.
LINGER = 5.0

_numbers = count(1)


@dataclass(frozen=True)
class Step:
    """What of a step's line does not depend on the clock."""

    step: int
    epoch: float | None
    samples: int | None
    samples_seen: int
    learning_rate: float | None
    loss: float | None
    grad_norm: float | None


@dataclass(frozen=True)
class Result:
    """What a run leaves."""

    steps: list[Step]
    models: dict[str, str]
    """Digests of the weights by the names of their directories: those of epochs, and the output."""

    @classmethod
    def of(cls, storage: Path) -> "Result":
        """What lies in a run's directory."""
        lines = [json.loads(line) for line in (storage / names.METRICS_FILE).read_text().splitlines()]
        fields = {
            "step": "step",
            "epoch": "epoch",
            "samples": "samples",
            "samples_seen": "samplesSeen",
            "learning_rate": "learningRate",
            "loss": "loss",
            "grad_norm": "gradNorm",
        }
        steps = [Step(**{name: line.get(key) for name, key in fields.items()}) for line in lines]
        weights = [
            *storage.glob("checkpoints/step-*/*.safetensors"),
            *storage.glob("output/*.safetensors"),
        ]
        return cls(steps, {str(file.relative_to(storage).parent): digest(file) for file in sorted(weights)})


@dataclass
class Course:
    """A run, attempt by attempt."""

    base: Path
    """Where model and data are."""
    checkpoints: dict[str, Any] = field(default_factory=dict)
    """As in the spec."""
    method: str = "sft"
    attempts: int = 0

    def __post_init__(self) -> None:
        self.name = f"run-{next(_numbers)}"
        self.storage = self.base / self.name
        self.keep_last = Checkpoints.model_validate(self.checkpoints).keep_last

    def config(self, world_size: int) -> RunConfig:
        """What a gang of so many processes is started with."""
        made = gangs.config(self.base, name=self.name, nodes=world_size, **HYPERPARAMETERS)
        checkpoints = Checkpoints.model_validate(self.checkpoints)
        return made.model_copy(update={"method": self.method, "checkpoints": checkpoints})

    def expect_another_model_refused(self, model: Path) -> None:
        """Begin, and put other weights into the model's directory: nothing goes on beside them, and nothing is lost."""
        assert self.attempt(1, Fault(self.storage, Moment.BEGUN, nth=3)) == [-9]
        states = self.states()
        save_tiny_model(model, seed=1)
        with forked.running(self.config(1), attempt=2) as gang:
            assert gang.wait() == [ExitCode.INVALID_CONFIGURATION], gang.output()
            [cause] = gang.causes().values()
        said = "spec.model: the base model's weights changed since step 2 of this run"
        assert cause["message"].startswith(said)
        assert self.states() == states

    def attempt(
        self, world_size: int = 1, fault: Fault | None = None, *, torn: bool = False
    ) -> list[int | None]:
        """One attempt, to its end; returns how its processes ended.

        `torn` leaves the line of a step unfinished, as a process does that is killed when it writes one.
        """
        before = self.newest_state()
        self.attempts += 1
        if self.is_finished():
            # What the first process of a container does then, it does alone.
            return [end.exit_code for end in gangs.run(self.config(world_size), attempt=self.attempts)]
        with forked.running(self.config(world_size), attempt=self.attempts, beforehand=fault) as gang:
            if fault is not None:
                gang.processes[fault.rank].join(gangs.PATIENCE)
            codes = gang.wait(LINGER if fault and gang.processes[fault.rank].exitcode else gangs.PATIENCE)
            self._check_ends(codes, fault, f"{fault}: {codes}\n{gang.output()}")
        self._check_start(before)
        self._check_states(before)
        if fault is not None and fault.number == signal.SIGTERM and ExitCode.TERMINATED in codes:
            assert self.newest_state() == len(self.lines()), "a step was lost that could have been saved"
        if torn and not self.is_finished():
            with self.metrics.open("a") as metrics:
                metrics.write('{"step":')
        return codes

    def _check_ends(self, codes: Sequence[int | None], fault: Fault | None, told: str) -> None:
        own = codes[fault.rank] if fault else 0
        if own == 0:
            assert set(codes) == {0}, told
            return
        assert fault is not None
        peers = {code for rank, code in enumerate(codes) if rank != fault.rank}
        if fault.number == signal.SIGTERM:
            # Before there is anything to save, each goes when it is asked, and its peers lose it.
            assert own == ExitCode.TERMINATED, told
            assert peers <= {ExitCode.TERMINATED, ExitCode.COLLECTIVE_TIMEOUT}, told
        else:
            # A peer tells that it lost one, or is taken away when it does not notice.
            assert own == -fault.number, told
            assert peers <= {ExitCode.COLLECTIVE_TIMEOUT, None, 0}, told

    def _check_start(self, newest: int) -> None:
        """It went on from the newest state that was complete."""
        try:
            report = Report.from_json((self.storage / names.REPORT_FILE).read_bytes())
        except FileNotFoundError:
            return
        if report.attempt == self.attempts and report.stage in (Stage.TRAINING, Stage.SAVING, Stage.FINISHED):
            assert (report.resumed_from_step or 0) == newest, report

    def _check_states(self, before: int) -> None:
        """No state that was complete is lost to one that is not, and no more of them are kept than asked."""
        if self.is_finished():
            return
        assert self.newest_state() >= before
        # When the result is written, no state is under way any more.
        if (self.storage / f"{names.OUTPUT_DIR}.incomplete").exists():
            assert len(self.states()) <= self.keep_last, self.states()

    @property
    def metrics(self) -> Path:
        """The file of one line per step."""
        return self.storage / names.METRICS_FILE

    def lines(self) -> list[dict[str, Any]]:
        """The lines of the steps; a last one that is not complete is none."""
        if not self.metrics.exists():
            return []
        return [
            json.loads(line)
            for line in self.metrics.read_text().splitlines(keepends=True)
            if line.endswith("\n")
        ]

    def is_finished(self) -> bool:
        """Whether the result is there."""
        return self._has(self.storage / names.OUTPUT_DIR)

    def _has(self, directory: Path) -> bool:
        return is_intact(directory) and manifest(directory)["uid"] == self.config(1).uid

    def states(self) -> list[Path]:
        """The complete states for restarts, oldest first."""
        return [path for path in sorted(self.storage.glob("resume/step-*")) if self._has(path)]

    def newest_state(self) -> int:
        """Step of the newest complete state, full ones included; 0 where there is none."""
        full = [path for path in self.storage.glob("checkpoints/full-state-*") if self._has(path)]
        return max((manifest(path)["facts"]["step"] for path in [*self.states(), *full]), default=0)

    def finish(self, world_size: int = 1) -> Result:
        """The last attempt, that nothing hits."""
        codes = self.attempt(world_size)
        assert codes == [0] * world_size
        leftovers = [
            *self.storage.rglob("*.incomplete"),
            *self.storage.rglob("*.tmp"),
            *self.storage.glob(".*"),
        ]
        assert not leftovers
        assert not (self.storage / names.RESUME_DIR).exists()
        assert self.is_finished()
        return Result.of(self.storage)


def manifest(directory: Path) -> dict[str, Any]:
    """The manifest of a directory."""
    value: dict[str, Any] = json.loads((directory / "manifest.json").read_text())
    return value


def is_intact(directory: Path) -> bool:
    """Whether a directory is complete, and all of it as its manifest says."""
    if directory.name.endswith(".incomplete"):
        return False
    try:
        files = manifest(directory)["files"]
    except (FileNotFoundError, ValueError):
        return False
    there = {file.name for file in directory.iterdir()} - {"manifest.json"}
    assert there <= set(files), "a file that the manifest does not know"
    return there == set(files) and all(digest(directory / name) == files[name]["sha256"] for name in files)


def digest(file: Path) -> str:
    """SHA-256 of a file's content."""
    return hashlib.sha256(file.read_bytes()).hexdigest()
