"""Checkpoints of a process that trains alone: what is written, what is kept, what is read again."""

import errno
import io
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from finetune_trainer import commit
from finetune_trainer.checkpoints import restoring
from finetune_trainer.checkpoints.checkpoint import Checkpoints
from finetune_trainer.checkpoints.restoring import Restored
from finetune_trainer.checkpoints.state import State
from finetune_trainer.distributed import Gang
from finetune_trainer.ends.errors import InvalidConfigurationError, InvalidDataError, TrainerError
from finetune_trainer.methods import sft
from finetune_trainer.model import load_config
from tiny import save_tiny_model
from trainer.states import (
    advance,
    alone,
    assert_same,
    checkpoints_in,
    content,
    expected,
    save,
    small,
    state_of,
)


@pytest.fixture(scope="module")
def gang() -> Iterator[Gang]:
    """A gang of this process alone."""
    with alone() as made:
        yield made


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    save_tiny_model(directory)
    return directory


@pytest.fixture
def checkpoints(gang: Gang, base: Path, tmp_path: Path) -> Checkpoints:
    return checkpoints_in(tmp_path, gang, base)


def language_model(base: Path, gang: Gang) -> State:
    """The state of a whole model in which nothing has happened."""
    return state_of(sft.build(base, load_config(base), gang, activation_checkpointing=False))


def save_up_to(checkpoints: Checkpoints, state: State, steps: int) -> list[Path]:
    """Save a state after each of so many steps."""
    saved = []
    for step in range(1, steps + 1):
        advance(state)
        saved.append(save(checkpoints, state, step))
    return saved


def states(checkpoints: Checkpoints) -> list[str]:
    return sorted(path.name for path in checkpoints.storage.resume.iterdir())


def test_everything_comes_back(checkpoints: Checkpoints, base: Path, gang: Gang) -> None:
    state = language_model(base, gang)
    for _ in range(3):
        advance(state)
    checkpoints.storage.metrics.write_text("x" * 300)
    checkpoints.begin(state, 3, 0.3, metrics_bytes=300)
    checkpoints.finish()
    other = language_model(base, gang)
    assert checkpoints.restore(other) == Restored(3, 300)
    assert_same(content(other), content(state))
    for one in (state, other):
        advance(one)
    assert_same(content(other), content(state))
    assert other.scheduler.get_last_lr() == state.scheduler.get_last_lr()
    assert other.optimizer.param_groups[0]["lr"] == state.optimizer.param_groups[0]["lr"]


def test_the_newest_are_kept(checkpoints: Checkpoints, gang: Gang) -> None:
    save_up_to(checkpoints, small(gang), 4)
    assert states(checkpoints) == ["step-00000003", "step-00000004"]


def flip(file: Path) -> None:
    """Change a bit in the middle of a file."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    ["a bit", "a bit of the metadata", "a part", "a file", "the manifest", "the end of it", "the run"],
)
def test_what_is_damaged_or_foreign_is_passed_over_and_left_alone(
    checkpoints: Checkpoints, gang: Gang, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    older, newer = save_up_to(checkpoints, small(gang), 2)
    tensors, metadata, manifest = newer / "__0_0.distcp", newer / ".metadata", newer / "manifest.json"
    match damage:
        case "a bit":
            flip(tensors)
        case "a bit of the metadata":
            flip(metadata)
        case "a part":
            tensors.write_bytes(tensors.read_bytes()[:-1])
        case "a file":
            tensors.unlink()
        case "the manifest":
            manifest.unlink()
        case "the end of it":
            manifest.write_bytes(manifest.read_bytes()[:-10])
        case "the run":
            manifest.write_text(manifest.read_text().replace("uid-1", "uid-2"))
    before = {file.name: file.read_bytes() for file in newer.iterdir()}
    read: list[str] = []

    class Noting(dcp.FileSystemReader):
        def __init__(self, path: Path) -> None:
            read.append(path.name)
            super().__init__(path)

    monkeypatch.setattr(dcp, "FileSystemReader", Noting)
    state = small(gang)
    assert checkpoints.restore(state).step == 1
    assert_same(content(state), expected(1))
    assert read == [older.name]
    assert {file.name: file.read_bytes() for file in newer.iterdir()} == before


class Bomb:
    """Leaves a mark where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._mark,)


def test_nothing_is_unpickled_from_what_somebody_else_wrote(
    checkpoints: Checkpoints, gang: Gang, tmp_path: Path
) -> None:
    _, newer = save_up_to(checkpoints, small(gang), 2)
    mark = tmp_path / "exploded"
    pickle.loads(pickle.dumps(Bomb(mark)))
    assert mark.exists()
    mark.unlink()
    metadata = newer / ".metadata"
    bomb = io.BytesIO()
    pickle.dump(Bomb(mark), bomb)
    # As long as what was there: its size does not give it away.
    metadata.write_bytes(bomb.getvalue().ljust(metadata.stat().st_size, b"\0"))
    assert checkpoints.restore(small(gang)).step == 1
    assert not mark.exists()


def test_a_damaged_state_goes_once_there_is_a_newer_one_and_costs_no_good_one(
    checkpoints: Checkpoints, gang: Gang
) -> None:
    *_, damaged = save_up_to(checkpoints, small(gang), 3)
    flip(damaged / ".metadata")
    state = small(gang)
    assert checkpoints.restore(state).step == 2
    # More steps than the damaged one has, as when states are saved by the clock.
    for _ in range(2):
        advance(state)
    save(checkpoints, state, 4)
    assert states(checkpoints) == ["step-00000002", "step-00000004"]


class Volume:
    """Does not give the files of some directories, so many times."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, failures: dict[Path, int]) -> None:
        self._read, self._failures = commit.sha256, failures
        monkeypatch.setattr(commit, "sha256", self._sha256)
        monkeypatch.setattr(restoring, "PAUSES", (0.0, 0.0))

    def _sha256(self, file: Path, tick: Callable[[], None]) -> str:
        if self._failures.get(file.parent, 0) > 0:
            self._failures[file.parent] -= 1
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(file))
        return self._read(file, tick)


def test_a_state_that_the_volume_does_not_give_for_a_moment_is_read_once_more(
    checkpoints: Checkpoints, gang: Gang, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, newer = save_up_to(checkpoints, small(gang), 2)
    Volume(monkeypatch, {newer: 2})
    assert checkpoints.restore(small(gang)).step == 2


def test_a_state_that_cannot_be_read_is_passed_over_and_may_be_good_all_the_same(
    checkpoints: Checkpoints, gang: Gang, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    *_, newest = save_up_to(checkpoints, small(gang), 3)
    Volume(monkeypatch, {newest: 100})
    state = small(gang)
    assert checkpoints.restore(state).step == 2
    assert f"{newest} cannot be read: it is left alone" in caplog.text
    save(checkpoints, state, 5)
    kept = ["step-00000002", "step-00000003", "step-00000005"]
    assert states(checkpoints) == kept, "nothing says that it is damaged, and nothing that it is not"


def test_where_no_state_can_be_read_nothing_is_begun_anew(
    checkpoints: Checkpoints, gang: Gang, monkeypatch: pytest.MonkeyPatch
) -> None:
    older, newer = save_up_to(checkpoints, small(gang), 2)
    Volume(monkeypatch, {older: 100, newer: 100})
    said = "spec.storage: resume/step-00000002, resume/step-00000001 cannot be read, and no other state"
    with pytest.raises(TrainerError, match=said):
        checkpoints.restore(small(gang))
    assert states(checkpoints) == ["step-00000001", "step-00000002"]


def test_reading_a_state_gives_signs_of_life(checkpoints: Checkpoints, gang: Gang, tmp_path: Path) -> None:
    save_up_to(checkpoints, small(gang), 1)
    ticks: list[bool] = []
    read = False

    class Reader(dcp.FileSystemReader):
        def read_data(self, *arguments: Any) -> Any:
            nonlocal read
            read = True
            return super().read_data(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dcp, "FileSystemReader", Reader)
        again = checkpoints_in(tmp_path, gang, tick=lambda: ticks.append(read))
        state = small(gang)
        again.restore(state)
    tensors = [value for value in state.tensors().values() if isinstance(value, torch.Tensor)]
    assert ticks.count(True) >= len(tensors) > 0


def test_with_no_state_intact_a_run_begins_anew_and_says_so(
    checkpoints: Checkpoints, gang: Gang, caplog: pytest.LogCaptureFixture
) -> None:
    for state in save_up_to(checkpoints, small(gang), 2):
        flip(state / "__0_0.distcp")
    assert checkpoints.restore(small(gang)) == Restored(0, None)
    assert "none of the 2 states of this run is intact: it begins anew, at step 0" in caplog.text
    assert states(checkpoints) == ["step-00000001", "step-00000002"]


def test_a_step_of_other_data_means_nothing(checkpoints: Checkpoints, gang: Gang, tmp_path: Path) -> None:
    save_up_to(checkpoints, small(gang), 1)
    with pytest.raises(InvalidDataError, match="changed since step 1 of this run"):
        checkpoints_in(tmp_path, gang, data="digest-2").restore(small(gang))


def test_a_step_of_another_number_of_samples_is_another_step(
    checkpoints: Checkpoints, gang: Gang, tmp_path: Path
) -> None:
    save_up_to(checkpoints, small(gang), 1)
    with pytest.raises(
        InvalidConfigurationError, match=r"is 8, and was 4 up to step 1 of this run: set it to 4"
    ):
        checkpoints_in(tmp_path, gang, effective_batch_size=8).restore(small(gang))


def test_without_a_state_a_run_begins_at_the_beginning(checkpoints: Checkpoints, gang: Gang) -> None:
    assert checkpoints.restore(small(gang)) == Restored(0, None)


def test_the_result_makes_states_for_restarts_needless(
    checkpoints: Checkpoints, base: Path, gang: Gang
) -> None:
    state = language_model(base, gang)
    advance(state)
    save(checkpoints, state, 1)
    (checkpoints.storage.resume / "step-00000002.aside.incomplete").mkdir()
    checkpoints.save_output(state, 2, 1.0)
    assert not checkpoints.storage.resume.exists()


@pytest.fixture
def full_state(checkpoints: Checkpoints, base: Path, gang: Gang) -> tuple[State, Path]:
    """A state, and where it is kept in full, after six steps that are two epochs."""
    state = language_model(base, gang)
    advance(state)
    saved = checkpoints.save_full_state(state, 6, 2.0, 0)
    assert (saved.kind, saved.name, saved.step, saved.epoch) == (
        "fullState",
        "checkpoints/full-state-epoch-2",
        6,
        2.0,
    )
    return state, checkpoints.storage.root / saved.name


def test_a_full_state_is_a_model_to_load(full_state: tuple[State, Path]) -> None:
    state, directory = full_state
    loaded = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    for name, weight in state.model.hf.named_parameters():
        assert torch.equal(loaded.get_parameter(name), weight)
    assert load_file(directory / "model.safetensors")
    assert (directory / "tokenizer.json").exists()


def test_a_full_state_alone_is_enough_to_go_on(
    checkpoints: Checkpoints, full_state: tuple[State, Path], base: Path, gang: Gang
) -> None:
    other = language_model(base, gang)
    assert checkpoints.restore(other).step == 6
    assert_same(content(other), content(full_state[0]))


def test_the_later_of_states_and_full_states_is_gone_on_from(
    checkpoints: Checkpoints, full_state: tuple[State, Path], base: Path, gang: Gang
) -> None:
    state, directory = full_state
    advance(state)
    for step in (5, 7, 8):
        save(checkpoints, state, step)
    other = language_model(base, gang)
    assert checkpoints.restore(other).step == 8
    for later in (7, 8):
        shutil.rmtree(checkpoints.storage.state_after(later))
    assert checkpoints.restore(other).step == 6
    assert directory.exists()


def test_other_programs_can_read_a_full_state(full_state: tuple[State, Path], tmp_path: Path) -> None:
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

    state, directory = full_state
    dcp_to_torch_save(directory, tmp_path / "state.pt")
    found = torch.load(tmp_path / "state.pt", weights_only=True)
    assert_same(found, content(state))
