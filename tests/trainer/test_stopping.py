"""One process of a gang is asked to stop, wherever it is: all end together, and nothing that was done is lost."""

import json
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from finetune_api.failure import ExitCode
from finetune_api.runconfig import RunConfig
from finetune_api.spec import Checkpoints
from tiny import conversation, save_tiny_model
from trainer import forked, gangs
from trainer.faults import OUTPUT, WEIGHTS, Fault, Moment
from trainer.gangs import PATIENCE
from trainer.survival import Result

SAMPLES, BATCH, STEPS = 24, 8, 3
NOTHING_TO_SAVE = "asked to stop before training began: there is nothing new to save"
# A micro-batch for each sample, so four in each step of two processes.
HYPERPARAMETERS: dict[str, Any] = {
    "learningRate": 1e-3,
    "effectiveBatchSize": BATCH,
    "numEpochs": 1,
    "maxSeqLen": 64,
    "maxTokensPerGpu": 64,
    "weightDecay": 0.1,
    "eps": 1e-5,
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a tiny model and data."""
    made = tmp_path_factory.mktemp("stopping")
    save_tiny_model(made / "model")
    rows = [conversation("x", "abcdef"[row % 6] * 30) for row in range(SAMPLES)]
    (made / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return made


def config(base: Path, name: str, *, nodes: int = 2, **wanted: Any) -> RunConfig:
    """A run of three steps, which are an epoch."""
    made = gangs.config(base, name=name, nodes=nodes, **HYPERPARAMETERS)
    return made.model_copy(update={"checkpoints": Checkpoints(**wanted)})


def reasons(gang: forked.Gang) -> set[str]:
    """What the processes told of their ends."""
    return {cause["message"] for cause in gang.causes().values()}


def listed(base: Path, name: str) -> list[tuple[str, int]]:
    """Kind and step of the checkpoints in the Report."""
    return [(found.kind, found.step) for found in gangs.kept_report(base / name).checkpoints]


def test_the_step_under_way_is_abandoned_and_nothing_else_is_lost(base: Path) -> None:
    forked.train(config(base, "whole"))
    stopped = config(base, "stopped")
    # At the first micro-batch of the third step.
    fault = Fault(base / "stopped", Moment.MICRO_BATCH, nth=9, rank=1, number=signal.SIGTERM)
    with forked.running(stopped, beforehand=fault) as gang:
        assert gang.wait() == [ExitCode.TERMINATED] * 2, gang.output()
        assert reasons(gang) == {"asked to stop; the state after step 2 is saved"}
    assert [step.step for step in gangs.steps(base / "stopped")] == [1, 2]
    assert listed(base, "stopped") == [("resume", 2)]
    with forked.running(stopped, attempt=2) as gang:
        assert gang.wait() == [0, 0], gang.output()
    assert gangs.kept_report(base / "stopped").resumed_from_step == 2
    assert Result.of(base / "stopped") == Result.of(base / "whole")


def wait_for(file: Path, gang: forked.Gang) -> None:
    deadline = time.monotonic() + PATIENCE
    while not file.exists():
        assert time.monotonic() < deadline, gang.output()
        time.sleep(0.05)


@dataclass(frozen=True)
class HeldUp:
    """Has rank 0 stay for a long time where it prepares data or divides the model."""

    module: str
    function: str
    reached: Path

    def __call__(self, rank: int) -> None:
        import importlib

        def stay(*_: Any, **named: Any) -> None:
            self.reached.touch()
            time.sleep(10 * PATIENCE)

        if rank == 0:
            there = vars(importlib.import_module(self.module))
            assert self.function in there, "what is not called holds nobody up"
            there[self.function] = stay


@pytest.mark.parametrize(
    ("module", "function"),
    [("finetune_trainer.train", "prepare_all"), ("finetune_trainer.methods.sft", "distribute")],
)
def test_before_training_all_leave_though_one_alone_is_asked(base: Path, module: str, function: str) -> None:
    """The others are where no signal reaches them: waiting for rank 0 at the store, or inside of a collective."""
    reached = base / f"{function}-reached"
    # Rank 0 is in the midst of its work, and nobody asks it.
    run = config(base, f"held-up-{function}".replace("_", "-"))
    with forked.running(run, beforehand=HeldUp(module, function, reached)) as gang:
        wait_for(reached, gang)
        gang.signal(1, signal.SIGTERM)
        assert gang.wait() == [ExitCode.TERMINATED] * 2, gang.output()
        assert reasons(gang) == {NOTHING_TO_SAVE}


@dataclass(frozen=True)
class OnTheThreshold:
    """Has one process stay between meeting the other at the store and joining it, where the other waits for it."""

    rank: int
    reached: Path

    def __call__(self, rank: int) -> None:
        from finetune_trainer.distributed import Gang

        join = Gang.join

        def joined(gang: Gang) -> None:
            self.reached.with_name(f"{self.reached.name}-{rank}").touch()
            if rank == self.rank:
                try:
                    time.sleep(10 * PATIENCE)
                except BaseException as error:
                    # As torch's own code of checkpoints does.
                    raise RuntimeError("cannot join") from error
            join(gang)

        Gang.join = joined  # type: ignore[assignment, method-assign]


@pytest.mark.parametrize("late", [0, 1])
def test_while_they_join_all_leave_though_one_alone_is_asked(base: Path, late: int) -> None:
    """Asked is rank 1, which has not joined yet, or waits where no signal reaches it for rank 0 to do so."""
    reached = base / f"threshold-{late}-reached"
    with forked.running(config(base, f"late-{late}"), beforehand=OnTheThreshold(late, reached)) as gang:
        for rank in (0, 1):
            wait_for(reached.with_name(f"{reached.name}-{rank}"), gang)
        gang.signal(1, signal.SIGTERM)
        assert gang.wait() == [ExitCode.TERMINATED] * 2, gang.output()
        assert reasons(gang) == {NOTHING_TO_SAVE}


def test_while_a_model_is_saved_it_is_finished_and_the_state_is_saved_too(base: Path) -> None:
    fault = Fault(base / "saving", Moment.MANIFEST, WEIGHTS, number=signal.SIGTERM)
    # Two epochs, of which the first ends with a model.
    made = config(base, "saving", nodes=1)
    two_epochs = made.hyperparameters.model_copy(update={"num_epochs": 2})
    with forked.running(made.model_copy(update={"hyperparameters": two_epochs}), beforehand=fault) as gang:
        assert gang.wait() == [ExitCode.TERMINATED], gang.output()
        assert reasons(gang) == {f"asked to stop; the state after step {STEPS} is saved"}
    assert listed(base, "saving") == [("weights", STEPS), ("resume", STEPS)]


def test_while_the_result_is_saved_it_is_finished(base: Path) -> None:
    fault = Fault(base / "ending", Moment.MANIFEST, OUTPUT, number=signal.SIGTERM)
    with forked.running(config(base, "ending", nodes=1), beforehand=fault) as gang:
        assert gang.wait() == [0], gang.output()
    assert gangs.kept_report(base / "ending").output is not None
