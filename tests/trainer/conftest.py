"""The runs that several tests look at. Starting a training process takes many seconds, so there are few of them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from finetune_api.evaluation import TRAIN
from tiny import save_chat_data, save_tiny_model
from trainer import survival
from trainer.gangs import End, config, run, running

SAMPLES, OVERLONG, BATCH, EPOCHS = 590, 3, 20, 2
STEPS_PER_EPOCH = 30
STEPS = EPOCHS * STEPS_PER_EPOCH
HYPERPARAMETERS: dict[str, Any] = {
    "learningRate": 1e-3,
    "effectiveBatchSize": BATCH,
    "numEpochs": EPOCHS,
    "maxSeqLen": 128,
    "maxTokensPerGpu": 160,
    "weightDecay": 0.1,
    "warmupSteps": 5,
}


# Fixtures of a session that cost most. Whatever else is shared is shared within a file.
SHARED = ("inputs", "survivors")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where several processes share the tests (`--dist loadgroup`), files that look at the same runs stay together."""
    groups = {
        item.path: shared
        for shared in SHARED
        for item in items
        if isinstance(item, pytest.Function) and shared in item.fixturenames
    }
    for item in items:
        item.add_marker(pytest.mark.xdist_group(groups.get(item.path, item.path.stem)))


@dataclass(frozen=True)
class Run:
    """A run, and how each node of each of its attempts ended."""

    storage: Path
    attempts: list[list[End]]

    @property
    def ends(self) -> list[End]:
        """How rank 0's node ended, attempt by attempt."""
        return [nodes[0] for nodes in self.attempts]


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a tiny model in bfloat16 and data."""
    base = tmp_path_factory.mktemp("runs")
    save_tiny_model(base / "model", family="qwen2", dtype="bfloat16")
    save_chat_data(base / "train.jsonl", samples=SAMPLES, overlong=OVERLONG)
    return base


@pytest.fixture(scope="session")
def pair(inputs: Path) -> Iterator[tuple[Run, Run]]:
    """The same run without a stop and with two, of which one is in the first epoch and one in a later.

    The second does not keep the model of each epoch.
    """
    interrupted = config(inputs, name="parts", every_epoch=False, **HYPERPARAMETERS)
    stopped = []
    with running(config(inputs, name="whole", **HYPERPARAMETERS)) as whole:
        for attempt, step in ((1, 4), (2, STEPS_PER_EPOCH + 4)):
            with running(interrupted, attempt=attempt) as gang:
                gang.wait_for_step(step)
                gang.terminate()
                stopped.append(gang.wait())
            found = stopped[-1][0].report.dataset
            assert found is not None
            # The second attempt is told what was prepared, the third something that is not there.
            known = found.digest if attempt == 1 else "0" * 64
            interrupted = interrupted.model_copy(update={"prepared": {TRAIN: known}})
        stopped.append(run(interrupted, attempt=3))
        yield Run(inputs / "whole", [whole.wait()]), Run(inputs / "parts", stopped)


@pytest.fixture(scope="session")
def whole(pair: tuple[Run, Run]) -> Run:
    """One node, never stopped."""
    assert pair[0].ends[0].exit_code == 0, pair[0].ends[0].output
    return pair[0]


@pytest.fixture(scope="session")
def parts(pair: tuple[Run, Run]) -> Run:
    """One node, stopped twice."""
    return pair[1]


@pytest.fixture(scope="session")
def two(inputs: Path) -> Run:
    """Two nodes: one loses its training process in the second epoch, then one is asked to stop; one goes on alone."""
    both = config(inputs, name="two", nodes=2, **HYPERPARAMETERS)
    with running(both) as gang:
        gang.wait_for_step(STEPS_PER_EPOCH + 2)
        gang.kill_worker(node=1)
        killed = gang.wait()
    with running(both, attempt=2) as gang:
        gang.wait_for_step(STEPS_PER_EPOCH + 4)
        gang.terminate(node=1)
        stopped = gang.wait()
    alone = run(config(inputs, name="two", **HYPERPARAMETERS), attempt=3)
    return Run(inputs / "two", [killed, stopped, alone])


@pytest.fixture(scope="session")
def survivors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a tiny model and data, for runs that are hit on their way."""
    base = tmp_path_factory.mktemp("survivors")
    save_tiny_model(base / "model")
    save_chat_data(base / "train.jsonl", samples=survival.SAMPLES)
    return base


@pytest.fixture(scope="session")
def undisturbed(survivors: Path) -> dict[int, survival.Result]:
    """What comes out of such a run when nothing hits it, on one process and on two."""
    return {world_size: survival.Course(survivors).finish(world_size) for world_size in (1, 2)}
