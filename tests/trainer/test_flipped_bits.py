"""Whatever single thing of a state is damaged on its volume, no damaged number is trained on, and nothing good goes."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune_trainer.checkpoints.checkpoint import Checkpoints
from finetune_trainer.checkpoints.restoring import Restored
from finetune_trainer.distributed import Gang
from trainer.states import advance, alone, assert_same, checkpoints_in, content, expected, save, small

METRICS_BYTES = 100


@pytest.fixture(scope="module")
def gang() -> Iterator[Gang]:
    """A gang of this process alone."""
    with alone() as made:
        yield made


@pytest.fixture(scope="module")
def saved(gang: Gang, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's storage with the states of two steps."""
    directory = tmp_path_factory.mktemp("saved")
    checkpoints, state = checkpoints_in(directory, gang), small(gang)
    for step in (1, 2):
        advance(state)
        save(checkpoints, state, step)
    return directory


@pytest.fixture
def damaged(saved: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(saved, tmp_path / "run"))


def states(storage: Path) -> list[Path]:
    return sorted(storage.rglob("resume/step-*"))


def restored(storage: Path, gang: Gang) -> Restored:
    """What a new process goes on from; it must be what the run was after that step, to the last bit."""
    checkpoints: Checkpoints = checkpoints_in(storage, gang)
    state = small(gang)
    found = checkpoints.restore(state)
    assert_same(content(state), expected(found.step))
    reference = small(gang)
    for _ in range(found.step):
        advance(reference)
    for one in (state, reference):
        advance(one)
    assert_same(content(state), content(reference))
    assert state.scheduler.state_dict() == reference.scheduler.state_dict()
    return found


def files_of(storage: Path) -> list[Path]:
    """All files of the newer state, in order."""
    return sorted(states(storage)[-1].iterdir())


def everything(state: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in state.iterdir()}


# The places are drawn anew every time: one copy serves, and is mended after each.
MANY = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@MANY
@given(which=st.integers(0, 2), place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_in_any_file_is_noticed(
    damaged: Path, gang: Gang, which: int, place: float, bit: int
) -> None:
    older, newer = states(damaged)
    before = everything(older)
    file = files_of(damaged)[which]
    good = file.read_bytes()
    content = bytearray(good)
    content[int(place * len(content))] ^= 1 << bit
    file.write_bytes(content)
    try:
        assert restored(damaged, gang).step == 1, f"{file.name} was believed"
        assert file.read_bytes() == content, "what is damaged is left alone"
        assert everything(older) == before
        assert newer.exists()
    finally:
        file.write_bytes(good)


def test_every_number_of_the_manifest_counts(damaged: Path, gang: Gang) -> None:
    """They are trained with: a schedule that is a step ahead is as wrong as a weight."""
    manifest = states(damaged)[-1] / "manifest.json"
    good = manifest.read_text()
    numbers = [match.end() - 1 for match in re.finditer(r": \d[\d.]*", good)]
    assert len(numbers) > 5
    for place in numbers:
        manifest.write_text(good[:place] + chr(ord(good[place]) ^ 1) + good[place + 1 :])
        assert restored(damaged, gang).step == 1, manifest.read_text()


@pytest.mark.parametrize("which", range(3))
@pytest.mark.parametrize("damage", ["empty", "half", "older", "another"])
def test_a_file_in_the_place_of_another_is_noticed(
    damaged: Path, gang: Gang, which: int, damage: str
) -> None:
    older, _ = states(damaged)
    files = files_of(damaged)
    assert len(files) == 3, "another kind of file: damage it, too"
    file, good = files[which], files[which].read_bytes()
    match damage:
        case "empty":
            file.write_bytes(b"")
        case "half":
            file.write_bytes(good[: len(good) // 2])
        case "older":
            file.write_bytes((older / file.name).read_bytes())
        case "another":
            shutil.copyfile(files[which - 1], file)
    same = file.read_bytes() == good
    assert restored(damaged, gang).step == (2 if same else 1)
    assert len(states(damaged)) == 2
