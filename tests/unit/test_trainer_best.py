"""The weights of the lowest validation loss: which are kept, and how they become the result."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_api.report import EvaluationRecord
from finetune_api.scores import Evaluated, SetScore, best
from finetune_trainer import commit
from finetune_trainer.checkpoints.best import AS_BEST, deliver, facts_of, prune
from finetune_trainer.judging.retention import superseded
from finetune_trainer.reports import evaluations_file, history
from finetune_trainer.storage import Storage

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def evaluated(step: int, loss: float | None) -> Evaluated:
    return Evaluated(step=step, time=NOW, sets=[SetScore(name="validation", loss=loss, tokens=1)])


def run_of(losses: Sequence[float | None]) -> list[Evaluated]:
    """After steps 0, 1, 2, ..."""
    return [evaluated(step, loss) for step, loss in enumerate(losses)]


losses = st.lists(st.none() | st.integers(1, 5).map(float), min_size=1, max_size=12)


@given(losses, st.data())
def test_wherever_a_run_goes_on_its_best_weights_are_there(
    losses: list[float | None], data: st.DataObject
) -> None:
    """States are saved at any time; each new best is saved, and the others go then."""
    states = data.draw(st.sets(st.integers(1, len(losses))))
    kept: set[int] = set()
    newest = 0
    for number in range(1, len(losses) + 1):
        made = run_of(losses[:number])
        step = made[-1].step
        found = best(made)
        if found and found.step == step:
            kept.add(step)
            kept -= superseded(kept, made, newest)
        if step in states:
            newest = step
        for after in (step, newest):
            to_have = best([one for one in made if one.step <= after])
            assert to_have is None or to_have.step in kept
        assert len(kept) <= 2
    assert len(kept - superseded(kept, run_of(losses), len(losses))) <= 1


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(tmp_path, "runs/demo", "uid-1")


def keep(storage: Storage, step: int, *, as_best: bool) -> Path:
    """Weights after a step."""
    final = storage.weights_after(step)
    with commit.writing(final) as directory:
        (directory / "model.safetensors").write_text(f"weights {step}")
        (directory / "config.json").write_text("{}")
        files = commit.sealed(directory.iterdir(), lambda: None)
        facts: dict[str, Any] = {"step": step, "epoch": step / 10, "format": "model", "base": None}
        commit.publish(final, uid=storage.uid, files=files, facts={**facts, **(AS_BEST if as_best else {})})
    return final


def judge(storage: Storage, **scores: float) -> None:
    for step, loss in scores.items():
        evaluations_file.append(storage, EvaluationRecord.of(evaluated(int(step[1:]), loss), 1))


def undescribed(directory: Path, model_format: str, step: int) -> None:
    """Nothing lies beside a result."""


def there(storage: Storage) -> list[int]:
    return [int(path.name[-2:]) for path in commit.visible(storage.checkpoints)]


def test_only_what_was_kept_as_the_best_alone_goes(storage: Storage) -> None:
    keep(storage, 10, as_best=False)
    keep(storage, 20, as_best=True)
    keep(storage, 30, as_best=True)
    judge(storage, s10=3.0, s20=2.0, s30=1.0)
    prune(storage)
    assert there(storage) == [10, 30]


def test_the_best_up_to_the_newest_state_stays_until_there_is_a_result(storage: Storage) -> None:
    for step in (10, 20, 30):
        keep(storage, step, as_best=True)
    judge(storage, s10=3.0, s20=2.0, s30=1.0)
    with commit.writing(storage.state_after(25)) as directory:
        (directory / "state").touch()
        files = commit.sealed(directory.iterdir(), lambda: None)
        commit.publish(
            storage.state_after(25), uid=storage.uid, files=files, facts={"step": 25, "epoch": 2.5}
        )
    prune(storage)
    assert there(storage) == [20, 30]
    assert deliver(storage, 30, {}, undescribed, lambda: None)
    prune(storage)
    assert there(storage) == [30]


def test_kept_weights_become_the_result_without_being_written_twice(storage: Storage) -> None:
    source = keep(storage, 20, as_best=True)
    judge(storage, s0=3.0, s20=1.0, s30=2.0)
    why = "no improvement of the validation loss in 1 evaluation: best 1 at step 20"
    manifest = deliver(storage, 20, facts_of(why), undescribed, lambda: None)
    assert manifest is not None
    assert (manifest.facts["step"], manifest.facts["epoch"]) == (20, 2.0)
    assert not AS_BEST.keys() & manifest.facts.keys()
    assert commit.intact(storage.output, manifest.files, lambda: None)
    assert (storage.output / "model.safetensors").samefile(source / "model.safetensors")
    # People may write into the smaller ones.
    assert not (storage.output / "config.json").samefile(source / "config.json")
    found = history.evaluation(storage)
    assert found is not None
    assert (found.final, found.stopped_early) == (found.best, why)


def test_where_files_cannot_be_in_two_places_they_are_copied(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    source = keep(storage, 20, as_best=True)
    monkeypatch.setattr("os.link", refuse)
    assert deliver(storage, 20, {}, undescribed, lambda: None)
    copied = storage.output / "model.safetensors"
    assert copied.read_text() == "weights 20"
    assert not copied.samefile(source / "model.safetensors")


def test_damaged_weights_do_not_become_the_result(storage: Storage) -> None:
    source = keep(storage, 20, as_best=True)
    (source / "model.safetensors").write_text("weights 21")
    assert deliver(storage, 20, {}, undescribed, lambda: None) is None
    assert deliver(storage, 30, {}, undescribed, lambda: None) is None
    assert [path.name for path in storage.root.iterdir()] == ["checkpoints"]
