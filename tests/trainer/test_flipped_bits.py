"""Whatever single thing is damaged on a volume, no damaged number is trained on, and nothing good goes."""

import random
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune_api.runconfig import RunConfig
from finetune_trainer.checkpoints.checkpoint import Checkpoints
from finetune_trainer.checkpoints.restoring import Restored
from finetune_trainer.distributed import Gang
from finetune_trainer.ends.errors import InvalidDataError
from finetune_trainer.prepare import read
from finetune_trainer.prepare.data_sets import open_all, prepare_all
from tiny import conversation, save_tiny_model
from trainer.sets import job
from trainer.states import advance, alone, assert_same, checkpoints_in, content, expected, save, small

CONTEXT = 256


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


def opened(run: RunConfig) -> dict[str, Any]:
    """All that a gang would train on, once it has begun."""
    digests = prepare_all(run, CONTEXT, lambda _: None).digests
    data = open_all(run, digests)
    assert data is not None
    samples = [data.train.samples[place] for place in range(len(data.train.samples))]
    tokens = [[part.tolist() for part in sample] for sample in samples]
    return {"tokens": tokens, "status": data.train.status, "contents": data.contents["train"].tolist()}


def test_prepared_data_with_a_flipped_bit_are_prepared_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """They were prepared by another pod, maybe days ago, and are trained on as they lie there."""
    save_tiny_model(tmp_path / "model")
    run = job(tmp_path, tmp_path / "model", [conversation("hi", "y" * n) for n in range(1, 9)])
    good = opened(run)
    [directory] = Path(run.locations.prepared).iterdir()
    run = run.model_copy(update={"prepared": {"train": good["status"].digest}})
    assert opened(run) == good
    assert "prepared anew" not in caplog.text
    files = sorted(file.name for file in directory.iterdir())
    assert len(files) == 8, "another kind of file: damage it, too"
    dice = random.Random(0)
    for name in files * 2:
        content = bytearray((directory / name).read_bytes())
        content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
        (directory / name).write_bytes(content)
        caplog.clear()
        assert opened(run) == good, f"{name} was believed"
        assert "the train data that were prepared for this run are gone or damaged" in caplog.text


@pytest.mark.parametrize("change", ["grows", "is replaced", "is cut off"])
def test_data_that_change_while_they_are_read_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """What is trained on would not be what the digest says, by which other jobs find it, too."""
    save_tiny_model(tmp_path / "model")
    rows = [conversation("hi", "you")] * 3
    run = job(tmp_path, tmp_path / "model", rows)
    [file] = map(Path, run.locations.data["train"])
    read_rows = read.all_rows

    def meanwhile(files: Sequence[Path], origin: str) -> Iterator[read.RawRow]:
        match change:
            case "grows":
                file.write_text(file.read_text() * 2)
            case "is replaced":
                file.with_suffix(".new").write_text(file.read_text().replace("you", "she"))
                file.with_suffix(".new").replace(file)
            case "is cut off":
                file.write_text(file.read_text()[:-1])
        return read_rows(files, origin)

    monkeypatch.setattr(read, "all_rows", meanwhile)
    with pytest.raises(
        InvalidDataError, match=r'"train\.jsonl" .* was written to or replaced while it was read'
    ):
        opened(run)
    assert list(Path(run.locations.prepared).iterdir()) == []
    monkeypatch.undo()
    assert opened(run)["tokens"]
