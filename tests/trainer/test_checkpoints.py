"""State for restarts: read only if it is what this run wrote, and complete."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from finetune_api.status import Checkpoint
from finetune_trainer.checkpoint import Checkpoints, Restored
from finetune_trainer.distributed import Gang
from finetune_trainer.errors import InvalidDataError
from finetune_trainer.methods import sft
from finetune_trainer.model import load_config
from finetune_trainer.state import State
from finetune_trainer.storage import Storage
from tiny import save_tiny_model


@pytest.fixture(scope="module")
def gang() -> Iterator[Gang]:
    """A gang of this process alone."""
    alone = {
        "RANK": "0",
        "WORLD_SIZE": "1",
        "LOCAL_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "0",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in alone.items():
            patch.setenv(name, value)
        made = Gang(use_gpu=False)
    yield made
    made.leave()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    save_tiny_model(directory)
    return directory


@pytest.fixture
def checkpoints(gang: Gang, base: Path, tmp_path: Path) -> Checkpoints:
    return made(gang, base, tmp_path)


def made(gang: Gang, base: Path, storage: Path, **changes: Any) -> Checkpoints:
    """The checkpoints of a run."""
    facts: dict[str, Any] = {"data": "digest-1", "effective_batch_size": 4, "keep_last": 2, **changes}
    run = Storage(storage, "run", "uid-1")
    return Checkpoints(run, gang, base, torch.float32, tick=lambda: None, **facts)


def save(checkpoints: Checkpoints, state: State, step: int) -> Checkpoint:
    """Save a state, and wait for it."""
    checkpoints.begin(state, step, step / 10, metrics_bytes=100 * step)
    saved = checkpoints.finish()
    assert saved is not None
    return saved


def fresh(base: Path, gang: Gang) -> State:
    """A state in which nothing has happened."""
    model = sft.build(base, load_config(base), gang, activation_checkpointing=False)
    optimizer = AdamW(model.parameters(), lr=1.0)
    return State(model, optimizer, LambdaLR(optimizer, lambda step: 1 / (1 + step)))


def advance(state: State) -> None:
    """A step of any kind."""
    for weight in state.model.parameters():
        weight.grad = torch.full_like(weight, 0.5)
    state.optimizer.step()
    state.scheduler.step()


def keep(checkpoints: Checkpoints, state: State, step: int) -> Path:
    """Save a state without the removal of what it replaces."""
    resume = checkpoints.storage.resume
    aside = resume.with_name("aside")
    if resume.exists():
        resume.rename(aside)
    saved = checkpoints.storage.root / Path(save(checkpoints, state, step).path).relative_to("run")
    if aside.exists():
        for older in aside.iterdir():
            older.rename(resume / older.name)
        aside.rmdir()
    return saved


def test_everything_comes_back(checkpoints: Checkpoints, base: Path, gang: Gang) -> None:
    state = fresh(base, gang)
    for _ in range(3):
        advance(state)
    save(checkpoints, state, 3)
    other = fresh(base, gang)
    assert checkpoints.restore(other) == Restored(3, 300)
    for one, another in zip(state.model.parameters(), other.model.parameters(), strict=True):
        torch.testing.assert_close(another, one, atol=0, rtol=0)
    advance(state)
    advance(other)
    for one, another in zip(state.model.parameters(), other.model.parameters(), strict=True):
        torch.testing.assert_close(another, one, atol=0, rtol=0)
    assert other.scheduler.get_last_lr() == state.scheduler.get_last_lr()
    assert other.optimizer.param_groups[0]["lr"] == state.optimizer.param_groups[0]["lr"]


def test_only_the_newest_is_kept(checkpoints: Checkpoints, base: Path, gang: Gang) -> None:
    state = fresh(base, gang)
    advance(state)
    save(checkpoints, state, 1)
    (checkpoints.storage.resume / "step-00000002.incomplete").mkdir()
    newest = save(checkpoints, state, 3)
    assert (newest.kind, newest.step, newest.path) == ("resume", 3, "run/resume/step-00000003")
    assert [path.name for path in checkpoints.storage.resume.iterdir()] == ["step-00000003"]


@pytest.mark.parametrize("damage", ["a byte", "a file", "the manifest", "the run"])
def test_what_is_damaged_or_foreign_is_never_read(
    checkpoints: Checkpoints, base: Path, gang: Gang, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = fresh(base, gang)
    advance(state)
    older = keep(checkpoints, state, 1)
    advance(state)
    newer = keep(checkpoints, state, 2)
    metadata = newer / ".metadata"
    match damage:
        case "a byte":
            content = bytearray(metadata.read_bytes())
            content[-2] ^= 1
            metadata.write_bytes(content)
        case "a file":
            metadata.unlink()
        case "the manifest":
            (newer / "manifest.json").unlink()
        case "the run":
            text = (newer / "manifest.json").read_text()
            (newer / "manifest.json").write_text(text.replace("uid-1", "uid-2"))
    read: list[str] = []

    class Noting(dcp.FileSystemReader):
        def __init__(self, path: Path) -> None:
            read.append(path.name)
            super().__init__(path)

    monkeypatch.setattr(dcp, "FileSystemReader", Noting)
    other = fresh(base, gang)
    assert checkpoints.restore(other).step == 1
    assert read == [older.name]


def test_a_step_of_other_data_means_nothing(checkpoints: Checkpoints, base: Path, gang: Gang) -> None:
    state = fresh(base, gang)
    advance(state)
    save(checkpoints, state, 1)
    with pytest.raises(InvalidDataError, match="changed since step 1 of this run"):
        made(gang, base, checkpoints.storage.root, data="digest-2").restore(fresh(base, gang))


def test_without_a_state_a_run_begins_at_the_beginning(
    checkpoints: Checkpoints, base: Path, gang: Gang
) -> None:
    assert checkpoints.restore(fresh(base, gang)) == Restored(0, None)


def test_the_result_makes_state_for_restarts_needless(
    checkpoints: Checkpoints, base: Path, gang: Gang
) -> None:
    state = fresh(base, gang)
    advance(state)
    save(checkpoints, state, 1)
    checkpoints.save_output(state.model, 2, 1.0)
    assert not checkpoints.storage.resume.exists()
    shutil.rmtree(checkpoints.storage.output)
