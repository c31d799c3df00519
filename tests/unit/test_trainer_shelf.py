"""The states that a run can go on from: which go when a new one is there, and which are not the run's to remove."""

import shutil
from pathlib import Path

import pytest

from finetune_trainer import commit
from finetune_trainer.checkpoints import shelf
from finetune_trainer.checkpoints.shelf import Shelf, StateFacts
from finetune_trainer.storage import Storage


def facts(step: int) -> StateFacts:
    return StateFacts(
        step=step,
        epoch=step / 10,
        data="digest",
        effective_batch_size=4,
        world_size=1,
        scheduler={},
        metrics_bytes=0,
    )


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(tmp_path, "run", "uid-1")


@pytest.fixture
def states(storage: Storage) -> Shelf:
    return Shelf(storage, keep_last=2)


def put(states: Shelf, final: Path, step: int) -> None:
    directory = commit.start(final)
    (directory / "tensors").write_text(f"after step {step}")
    states.put(final, commit.sealed(directory.iterdir(), lambda: None), facts(step))


def put_states(states: Shelf, *steps: int) -> None:
    for step in steps:
        put(states, states.storage.state_after(step), step)


def there(storage: Storage) -> list[str]:
    return sorted(path.name for path in storage.resume.iterdir())


def test_the_newest_are_kept_and_found_newest_first(storage: Storage, states: Shelf) -> None:
    put_states(states, 8, 9, 10)
    put(states, storage.full_state_after(3.0), 9)
    assert there(storage) == ["step-00000009", "step-00000010"]
    assert states.found() == [storage.state_after(10), storage.state_after(9), storage.full_state_after(3)]
    assert states.newest == storage.state_after(10)


def test_fewer_are_kept_from_now_on_where_fewer_are_wanted(storage: Storage, states: Shelf) -> None:
    put_states(states, 1, 2)
    put_states(Shelf(storage, keep_last=1), 3)
    assert there(storage) == ["step-00000003"]


def test_one_that_comes_late_does_not_take_the_place_of_a_later_one(storage: Storage) -> None:
    states = Shelf(storage, keep_last=1)
    put_states(states, 5, 7, 6)
    assert there(storage) == ["step-00000007"]
    assert states.newest == storage.state_after(7)


def test_what_is_not_the_run_s_is_neither_found_nor_removed(storage: Storage, states: Shelf) -> None:
    put_states(Shelf(Storage(storage.root, "run", "uid-2"), keep_last=2), 1)
    put_states(states, 2)
    (storage.resume / "notes").mkdir()
    shutil.copytree(storage.state_after(2), storage.resume / "copy-of-2")
    shutil.copytree(storage.state_after(2), storage.state_after(3))
    (storage.state_after(3) / commit.MANIFEST).unlink()
    put_states(states, 4, 5)
    strangers = ["copy-of-2", "notes", "step-00000001", "step-00000003"]
    assert states.found() == [storage.state_after(5), storage.state_after(4)]
    assert there(storage) == sorted([*strangers, "step-00000004", "step-00000005"])
    shelf.clear(storage)
    assert there(storage) == strangers


def test_damaged_ones_go_with_the_next_that_is_good(storage: Storage, states: Shelf) -> None:
    put_states(states, 4, 6)
    (storage.state_after(6) / "tensors").unlink()
    # Found all the same: what is wrong with it is for others to say.
    later = Shelf(storage, keep_last=2)
    assert later.found() == [storage.state_after(6), storage.state_after(4)]
    later.pass_over(storage.state_after(6))
    assert there(storage) == ["step-00000004", "step-00000006"]
    put_states(later, 5)
    assert there(storage) == ["step-00000004", "step-00000005"]


def test_one_that_cannot_be_read_stays_and_takes_the_place_of_no_good_one(
    storage: Storage, states: Shelf
) -> None:
    put_states(states, 50, 100)
    later = Shelf(storage, keep_last=2)
    later.leave_alone(storage.state_after(100))
    put_states(later, 60)
    assert there(storage) == ["step-00000050", "step-00000060", "step-00000100"]
    # It is written anew.
    put_states(later, 100)
    assert there(storage) == ["step-00000060", "step-00000100"]


def test_a_damaged_one_that_is_written_anew_is_good(storage: Storage, states: Shelf) -> None:
    put_states(states, 4, 6)
    (storage.state_after(6) / "tensors").unlink()
    later = Shelf(storage, keep_last=2)
    later.pass_over(storage.state_after(6))
    put_states(later, 6, 7)
    assert there(storage) == ["step-00000006", "step-00000007"]


def test_a_state_remembers_steps_that_are_on_the_disk(storage: Storage, states: Shelf) -> None:
    final = storage.state_after(1)
    directory = commit.start(final)
    (directory / "tensors").write_text("")
    files = commit.sealed(directory.iterdir(), lambda: None)
    with pytest.raises(FileNotFoundError, match=r"metrics\.jsonl"):
        states.put(final, files, facts(1).model_copy(update={"metrics_bytes": 100}))
    assert states.found() == []


def test_with_the_result_all_states_go(storage: Storage, states: Shelf) -> None:
    put_states(states, 1, 2)
    commit.start(storage.state_after(3), "aside")
    shelf.clear(storage)
    assert not storage.resume.exists()
    shelf.clear(storage)
