"""All data of a run: those to train on, what is held back of them, and those with files of their own."""

import logging
from pathlib import Path
from typing import Any

import datasets
import pytest

from finetune_api.report import Preparation
from finetune_api.runconfig import RunConfig
from finetune_api.sources import Columns
from finetune_trainer.ends.errors import InvalidDataError
from finetune_trainer.inputs import assemble
from finetune_trainer.prepare.arrow import Prepared
from finetune_trainer.prepare.data_sets import open_all
from finetune_trainer.prepare.encode import MASKED
from tiny import conversation, save_tiny_model
from trainer.sets import job, prepare, write

DOCUMENTS: dict[str, Any] = {"pretraining": {"blockSize": 16, "documentColumnName": "text"}}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    save_tiny_model(directory)
    return directory


def rows_of(prepared: Prepared) -> list[int]:
    return [prepared.samples.number(place) for place in range(len(prepared.samples))]


def tokens_of(prepared: Prepared) -> list[tuple[bytes, bytes]]:
    found = (prepared.samples[place] for place in range(len(prepared.samples)))
    return [(input_ids.tobytes(), labels.tobytes()) for input_ids, labels in found]


def directories(run: RunConfig) -> list[Path]:
    return sorted(Path(run.locations.prepared).iterdir())


def dropping(run: RunConfig) -> RunConfig:
    """The same, with rows left out that are wrong."""
    return run.model_copy(update={"dataset": run.dataset.model_copy(update={"invalid_rows": "Drop"})})


def talk(number: int) -> dict[str, Any]:
    """A conversation that no other number has."""
    return conversation("hi", "y" * (1 + number % 50) + str(number))


def test_a_share_of_the_training_data_is_held_back(tmp_path: Path, model: Path) -> None:
    rows = [talk(number) for number in range(100)] + ["", conversation("hi", "y" * 300)]
    whole = prepare(job(tmp_path, model, rows)).train
    run = job(tmp_path, model, rows, split=0.1)
    data = prepare(run)
    train, validation = data.train, data.evaluated["validation"]
    assert (len(train.samples), len(validation.samples)) == (90, 10)
    assert sorted(rows_of(train) + rows_of(validation)) == list(range(100))
    # Both are samples like any others, with numbers of the rows in the file.
    every = tokens_of(whole)
    for part in (train, validation):
        assert tokens_of(part) == [every[row] for row in rows_of(part)]
        assert part.samples.lengths.tolist() == [len(ids) // 4 for ids, _ in tokens_of(part)]
        assert part.status.samples == len(part.samples)
        assert part.status.tokens == part.samples.lengths.sum()
        assert part.status.loss_tokens == part.samples.loss_tokens.sum()
        assert part.status.longest == part.samples.lengths.max()
        taken = assemble(part.samples, [3, 0])
        assert taken["sample_lengths"] == part.samples.lengths[[3, 0]].tolist()
    with pytest.raises(IndexError):
        validation.samples[10]
    # What was left out before is told of the data that are trained on; it is still the longest of all.
    assert (train.status.dropped, validation.status.dropped) == (1, 0)
    assert train.status.lengths is not None
    assert whole.status.lengths is not None
    assert train.status.lengths.max == whole.status.lengths.max > train.status.longest
    [told] = data.evaluation_data
    assert (told.name, told.samples, told.in_training, told.digest) == ("validation", 10, 0, None)
    assert told.loss_tokens == validation.samples.loss_tokens.sum()
    # Nothing was copied: it is what other jobs train on as a whole, or hold other shares back of.
    assert train.status.digest == whole.status.digest
    prepare(job(tmp_path, model, rows, split=0.3, seed=7))
    assert len(directories(run)) == 1


def test_whoever_opens_it_holds_the_same_back(tmp_path: Path, model: Path) -> None:
    kinds: list[dict[str, Any]] = [{}, DOCUMENTS]
    for stated in kinds:
        rows = [{**talk(number), "text": "y" * (number % 37)} for number in range(60)]
        run = job(tmp_path, model, rows, split=0.2, sets={"other": rows[:3]}, **stated)
        made = prepare(run)
        opened = open_all(run, made.digests)
        assert opened is not None
        for name in ("validation", "other"):
            assert tokens_of(opened.evaluated[name]) == tokens_of(made.evaluated[name])
        assert tokens_of(opened.train) == tokens_of(made.train)
        assert opened.train.status == made.train.status
        assert opened.evaluation_data == made.evaluation_data
        assert set(made.digests) == {"train", "other"}
        assert open_all(run, {"train": made.digests["train"]}) is None


def test_the_order_of_rows_does_not_decide_what_is_held_back(tmp_path: Path, model: Path) -> None:
    rows = [talk(number) for number in range(50)]
    first = prepare(job(tmp_path, model, rows, split=0.2)).evaluated["validation"]
    again = prepare(job(tmp_path, model, rows[::-1], split=0.2)).evaluated["validation"]
    assert sorted(tokens_of(first)) == sorted(tokens_of(again))
    other = prepare(job(tmp_path, model, rows, split=0.2, seed=1)).evaluated["validation"]
    assert sorted(tokens_of(first)) != sorted(tokens_of(other))


def test_equal_samples_are_counted_and_stay_on_one_side(tmp_path: Path, model: Path) -> None:
    rows = [talk(number // 4) for number in range(80)]
    assert prepare(job(tmp_path, model, rows)).train.status.duplicates == 60
    data = prepare(job(tmp_path, model, rows, split=0.25))
    train, validation = data.train, data.evaluated["validation"]
    assert (len(train.samples), len(validation.samples)) == (60, 20)
    assert (train.status.duplicates, validation.status.duplicates) == (45, 15)
    assert not set(tokens_of(train)) & set(tokens_of(validation))
    with pytest.raises(
        InvalidDataError, match=r'validationSplit: 0.25 .*\(spec.dataset.train: "train.jsonl"'
    ):
        prepare(job(tmp_path, model, [talk(1)] * 9, split=0.25))


def test_of_documents_some_are_held_back_before_they_are_joined(tmp_path: Path, model: Path) -> None:
    # Each document has letters of its own, so that no block can hide where its tokens are from.
    documents = [{"text": chr(ord("a") + number % 20) * (5 + number % 20)} for number in range(40)]
    run = job(tmp_path, model, [*documents, {"text": " "}], split=0.25, **DOCUMENTS)
    data = prepare(run)
    train, validation = data.train, data.evaluated["validation"]

    def tokens(part: Prepared) -> set[int]:
        return {int(token) for place in range(len(part.samples)) for token in part.samples[place][0]}

    # What both have is the token that ends a document, and it fills the last block.
    assert len(tokens(train) & tokens(validation)) == 1
    assert set(train.samples.lengths) == set(validation.samples.lengths) == {16}
    size = sum(len(document["text"]) + 1 for document in documents)
    assert train.status.empty == 1
    assert abs(len(validation.samples) * 16 - size / 4) < 50
    # Each part begins with a block of its own, and no token is lost.
    learnt = sum(
        int((part.samples[place][1] != MASKED).sum())
        for part in (train, validation)
        for place in range(len(part.samples))
    )
    assert learnt == size - len(documents)
    assert (train.status.duplicates or 0) + (validation.status.duplicates or 0) == 20
    assert data.evaluation_data[0].in_training == 0
    [directory] = directories(run)
    assert len(datasets.load_from_disk(str(directory))) == len(train.samples) + len(validation.samples)
    # Blocks of another split are other blocks.
    others: list[dict[str, Any]] = [{"split": 0.5}, {"split": 0.25, "seed": 1}, {}]
    for other in others:
        prepare(job(tmp_path, model, documents, **other, **DOCUMENTS))
    assert len(directories(run)) == 4
    with pytest.raises(InvalidDataError, match=r"validationSplit: 0\.1 cannot be held back"):
        prepare(job(tmp_path, model, documents[:1], split=0.1, **DOCUMENTS))
    with pytest.raises(InvalidDataError, match="all 2 documents are empty"):
        prepare(job(tmp_path, model, [{"text": ""}] * 2, split=0.1, **DOCUMENTS))
    with pytest.raises(InvalidDataError, match="line 2: text: is missing"):
        prepare(job(tmp_path, model, [*documents[:1], {"texts": ""}], split=0.1, **DOCUMENTS))


def test_every_set_is_read_with_its_own_columns_and_told_in_order(
    tmp_path: Path, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [talk(number) for number in range(10)]
    skills = [{"question": "hi", "answer": "y" * n} for n in (3, 300, 4)]
    sets = {"skills": skills, "general": [*rows[:2], talk(77), rows[0]]}
    columns = {"skills": Columns(prompt="question", completion="answer")}
    told: list[Preparation] = []
    run = job(tmp_path, model, rows, validation=[talk(11), talk(12)], sets=sets, columns=columns)
    with caplog.at_level(logging.WARNING):
        data = prepare(run, told)
    assert list(data.evaluated) == ["validation", "skills", "general"]
    found = [(each.name, each.samples, each.dropped, each.in_training) for each in data.evaluation_data]
    assert found == [("validation", 2, 0, 0), ("skills", 2, 1, 0), ("general", 4, 0, 3)]
    assert [each.digest for each in data.evaluation_data] == [data.digests[name] for name in data.evaluated]
    [warning] = caplog.messages
    assert warning.startswith('spec.evaluation.sets[general]: "general.jsonl" on claim "data"')
    assert "3 of 4 samples are trained on, too" in warning
    # One share of all that there is to read after the other.
    assert told[-1] == Preparation(rows=10 + 2 + 3 + 4, percent=100)
    assert [done.percent for done in told] == sorted(done.percent for done in told)
    assert [done.rows for done in told] == sorted(done.rows for done in told)
    assert 0 < next(done.percent for done in told if done.rows == 10) < 100


def test_a_row_of_a_set_that_is_wrong_is_told_with_its_field(tmp_path: Path, model: Path) -> None:
    rows = [talk(number) for number in range(4)]
    bad = {"messages": [{"role": "bot", "content": "x"}]}
    with pytest.raises(
        InvalidDataError,
        match=r'^spec.evaluation.sets\[general\]: "general.jsonl" .* 1 row of 2 cannot be evaluated on: line 2: mess',
    ):
        prepare(job(tmp_path, model, rows, sets={"general": [rows[0], bad]}))
    with pytest.raises(
        InvalidDataError, match=r"name the columns in spec.evaluation.sets\[general\].columns"
    ):
        prepare(job(tmp_path, model, rows, sets={"general": [{"x": "y"}]}))
    with pytest.raises(
        InvalidDataError, match=r"^spec.dataset.validation: .*the columns in spec.dataset.columns"
    ):
        prepare(job(tmp_path, model, rows, validation=[{"x": "y"}]))
    with pytest.raises(
        InvalidDataError, match=r"^spec.evaluation.sets\[long\]: .*: all 1 samples are longer"
    ):
        prepare(job(tmp_path, model, rows, sets={"long": [conversation("hi", "y" * 300)]}))
    # A document that is but the token that ends one: nothing before it tells it.
    silent = {"general": [{"text": "<|im_end|>"}]}
    with pytest.raises(
        InvalidDataError, match=r"^spec.evaluation.sets\[general\]: .*: loss is taken on none"
    ):
        prepare(job(tmp_path, model, [{"text": "abc"}], sets=silent, **DOCUMENTS))
    run = job(tmp_path, model, rows, sets={"general": [rows[0], bad]})
    [told] = prepare(dropping(run)).evaluation_data
    assert (told.samples, told.invalid) == (1, 1)
    # What is left out of the training data is left out before any are held back.
    data = prepare(dropping(job(tmp_path, model, [*rows, bad], split=0.5)))
    [told] = data.evaluation_data
    assert (data.train.status.invalid, told.samples, told.invalid) == (1, 2, 0)


def test_files_are_read_one_after_the_other(tmp_path: Path, model: Path) -> None:
    parts = [[talk(number) for number in range(start, start + 5)] for start in (0, 5, 10)]
    whole = prepare(job(tmp_path, model, [row for part in parts for row in part])).train
    (tmp_path / "more").mkdir()
    run = job(tmp_path, model, [])
    files = [
        write(tmp_path, name, part)
        for name, part in zip(("b.jsonl", "a.jsonl", "more/a.jsonl"), parts, strict=True)
    ]

    def reading(*files: str) -> RunConfig:
        return run.model_copy(
            update={"locations": run.locations.model_copy(update={"data": {"train": files}})}
        )

    told: list[Preparation] = []
    found = prepare(reading(*files), told).train
    assert tokens_of(found) == tokens_of(whole)
    assert rows_of(found) == list(range(15))
    assert told[-1] == Preparation(rows=15, percent=100)
    # In another order they are other data.
    assert prepare(reading(*files[::-1])).train.status.digest != found.status.digest
    write(tmp_path, "more/a.jsonl", [talk(1), "{"])
    with pytest.raises(
        InvalidDataError, match=r"1 row of 12 cannot be trained on: line 2 of more/a.jsonl: is not"
    ):
        prepare(reading(*files))
    (tmp_path / "a.json").write_text("[")
    with pytest.raises(
        InvalidDataError, match=r"spec.dataset.train: .*: a.json: the list ends in the middle of row 1"
    ):
        prepare(reading(files[0], str(tmp_path / "a.json")))


def test_only_what_is_missing_is_prepared(
    tmp_path: Path, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = job(tmp_path, model, [talk(1), talk(2)], sets={"one": [talk(3)], "two": [talk(4)]})
    made = prepare(run)
    run = run.model_copy(update={"prepared": {**made.digests, "two": "0" * 64}})
    # Without a look at the data, which may be large.
    for name in ("train", "one"):
        (tmp_path / f"{name}.jsonl").unlink()
    told: list[Preparation] = []
    assert prepare(run, told).evaluation_data == made.evaluation_data
    assert told[-1] == Preparation(rows=0, percent=0)
    assert "the two data that were prepared for this run are gone or damaged" in caplog.text
