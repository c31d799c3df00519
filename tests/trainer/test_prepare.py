"""From a file to prepared data."""

import json
import shutil
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest

from finetune_api.report import MAX_DETAILS, Preparation
from finetune_api.runconfig import RunConfig
from finetune_api.sources import Columns
from finetune_trainer.ends.errors import InvalidDataError
from finetune_trainer.prepare import pipeline, tokenizer
from finetune_trainer.prepare.arrow import Prepared
from finetune_trainer.prepare.data_sets import open_all, prepare_all
from tiny import conversation, save_tiny_model
from trainer.gangs import config

CONTEXT = 256
BAD = {"messages": [{"role": "bot", "content": "x"}]}
# Each answer, its end-of-turn token; <|im_start|>, "user", a line break and so on around them.
FRAME = len("user\nassistant\n\n\n") + 2 + 3


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    save_tiny_model(directory)
    return directory


def job(base: Path, model: Path, rows: Sequence[Any], name: str = "run", **hyperparameters: Any) -> RunConfig:
    """A run whose data are `rows`; strings stand for themselves."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (base / "train.jsonl").write_text("".join(line + "\n" for line in lines))
    made = config(base, name=name, **hyperparameters)
    return made.model_copy(update={"locations": made.locations.model_copy(update={"model": str(model)})})


def changed(run: RunConfig, **dataset: Any) -> RunConfig:
    """The same with other fields of spec.dataset."""
    return run.model_copy(update={"dataset": run.dataset.model_copy(update=dataset)})


def dropping(run: RunConfig) -> RunConfig:
    return changed(run, invalid_rows="Drop")


def prepare(run: RunConfig, told: list[Preparation] | None = None) -> Prepared:
    return prepare_all(run, CONTEXT, (told if told is not None else []).append).train


def directories(run: RunConfig) -> list[Path]:
    return sorted(Path(run.locations.prepared).iterdir())


def test_samples_are_measured_and_kept_in_order(tmp_path: Path, model: Path) -> None:
    rows = [conversation("hi", "y" * n) for n in (3, 1, 2)] * 2000
    told: list[Preparation] = []
    found = prepare(job(tmp_path, model, rows), told)
    assert found.samples.lengths[:3].tolist() == [FRAME + n + 1 for n in (3, 1, 2)]
    assert found.samples.loss_tokens[:3].tolist() == [4, 2, 3]
    assert found.status.samples == len(found.samples) == 6000
    assert (found.status.tokens, found.status.loss_tokens) == (6000 * (FRAME + 3), 18000)
    assert told[-1] == Preparation(rows=6000, percent=100)
    assert [done.percent for done in told] == sorted(done.percent for done in told)
    # In the last record batch, too.
    for place, loss_tokens in ((0, 4), (4095, 4), (4096, 2), (5999, 3)):
        input_ids, labels = found.samples[place]
        assert len(input_ids) == len(labels) == found.samples.lengths[place]
        assert input_ids.dtype == labels.dtype == np.dtype(np.int32)
        assert (labels != -100).sum() == loss_tokens
    with pytest.raises(IndexError):
        found.samples[-1]


def test_the_datasets_library_opens_what_is_left(tmp_path: Path, model: Path) -> None:
    rows = [conversation("hi", "y" * n) for n in (5, 300, 7)] * 3000
    run = job(tmp_path, model, rows)
    found = prepare(run)
    [directory] = directories(run)
    loaded = datasets.load_from_disk(str(directory))
    assert loaded.column_names == ["input_ids", "labels", "sample"]
    assert len(loaded) == len(found.samples) == 6000
    for place in (0, 1, 4500, 5999):
        input_ids, labels = found.samples[place]
        assert loaded[place]["input_ids"] == input_ids.tolist()
        assert loaded[place]["labels"] == labels.tolist()
    # Numbers of the rows in the file, some of which were left out.
    assert loaded["sample"][:4] == [0, 2, 3, 5]
    assert loaded["sample"][-1] == 8999
    stats = json.loads((directory / "stats.json").read_text())
    assert (stats["samples"], stats["dropped"]) == (6000, 3000)
    assert found.status.path == f".prepared-data/{directory.name}"
    assert found.status.digest.startswith(directory.name)


def test_any_number_of_processes_leaves_the_same(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [BAD if n % 97 == 0 else conversation("hi", "y" * (n % 240)) for n in range(1, 3000)]
    run = dropping(job(tmp_path, model, rows))
    left = []
    for processes in (1, 2):
        monkeypatch.setattr(pipeline, "_WORTH_OTHER_PROCESSES", 0)
        monkeypatch.setattr(pipeline, "available_processes", lambda number=processes: number)
        prepare(run)
        [directory] = directories(run)
        left.append({file.name: file.read_bytes() for file in directory.glob("[dls]*")})
        shutil.rmtree(directory)
    assert left[0] == left[1]
    assert len(left[0]) == 5


def test_samples_that_are_too_long_are_left_out_and_counted(tmp_path: Path, model: Path) -> None:
    rows = [conversation("hi", "y" * n) for n in (5, 100, 300, 5)]
    found = prepare(job(tmp_path, model, rows, maxSeqLen=100))
    assert (found.status.samples, found.status.dropped) == (2, 2)
    assert found.status.longest < 100
    assert found.status.lengths is not None
    assert found.status.lengths.max == FRAME + 301


def test_percentiles_are_lengths_that_there_are(tmp_path: Path, model: Path) -> None:
    answers = [20] * 10 + [100] * 9 + [200]
    found = prepare(job(tmp_path, model, [conversation("hi", "y" * n) for n in answers]))
    assert found.status.lengths is not None
    expected = {"p50": 20, "p95": 100, "p99": 200, "max": 200}
    assert found.status.lengths.model_dump() == {name: FRAME + 1 + n for name, n in expected.items()}


def test_without_a_limit_it_is_the_model_s_context(tmp_path: Path, model: Path) -> None:
    rows = [conversation("hi", "y" * n) for n in (5, 100, 300, 5)]
    found = prepare(job(tmp_path, model, rows))
    assert (found.status.samples, found.status.dropped) == (3, 1)


def test_what_was_prepared_serves_the_jobs_beside(tmp_path: Path, model: Path) -> None:
    rows = [conversation("hi", "you")]
    run = job(tmp_path, model, rows)
    first = prepare(run)
    [directory] = directories(run)
    made = (directory / "manifest.json").stat().st_mtime_ns
    again = prepare(job(tmp_path, model, rows, name="sister"))
    assert again.status == first.status
    assert directories(run) == [directory]
    assert (directory / "manifest.json").stat().st_mtime_ns == made


@pytest.mark.parametrize("whole", [True, False])
def test_prepared_data_that_were_damaged_are_made_anew(tmp_path: Path, model: Path, whole: bool) -> None:
    run = job(tmp_path, model, [conversation("hi", "you")])
    prepare(run)
    [directory] = directories(run)
    file = next(directory.glob("*.arrow"))
    good = file.read_bytes()
    file.write_bytes(good.replace(b"\x9c\xff\xff\xff", bytes(4), 1) if whole else b"")
    assert file.read_bytes() != good
    prepare(run)
    assert file.read_bytes() == good


def test_whatever_changes_the_outcome_has_a_place_of_its_own(tmp_path: Path, model: Path) -> None:
    rows = [conversation("hi", "you")]
    run = job(tmp_path, model, rows)
    other = tmp_path / "other"
    shutil.copytree(model, other)
    (other / "tokenizer_config.json").write_text((model / "tokenizer_config.json").read_text() + "\n")
    prepare(run)
    prepare(dropping(run))
    prepare(changed(run, columns=Columns(messages="messages")))
    prepare(run.model_copy(update={"locations": run.locations.model_copy(update={"model": str(other)})}))
    for hyperparameters in ({"maxSeqLen": 99}, {"unmaskMessages": True}):
        prepare(job(tmp_path, model, rows, **hyperparameters))
    prepare(job(tmp_path, model, rows * 2))
    assert len(directories(run)) == 7
    # What has no part in it has not.
    prepare(job(tmp_path, model, rows, learningRate=1e-3, numEpochs=7))
    assert len(directories(run)) == 7


def dated(directory: Path, file: str) -> Path:
    """A model whose chat template, which is in one of the tokenizer's files, writes the date."""
    save_tiny_model(directory)
    settings = json.loads((directory / "tokenizer_config.json").read_text())
    template = "It is {{ strftime_now('%d %b %Y') }}.\n" + settings.pop("chat_template")
    if file.endswith(".jinja"):
        (directory / file).write_text(template)
    else:
        settings["chat_template"] = template
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    return directory


@pytest.mark.parametrize("file", ["chat_template.jinja", "tokenizer_config.json"])
def test_another_date_in_the_template_is_another_outcome(
    tmp_path: Path, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dated").mkdir()
    run = job(tmp_path, dated(tmp_path / "dated", file), [conversation("hi", "you")])
    first = prepare(run).status.digest
    assert prepare(run).status.digest == first
    monkeypatch.setattr(tokenizer, "DATE", date(2001, 2, 3))
    assert prepare(run).status.digest != first


def test_the_date_is_no_matter_to_templates_that_do_not_show_it(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = job(tmp_path, model, [conversation("hi", "you")])
    first = prepare(run).status.digest
    monkeypatch.setattr(tokenizer, "DATE", date(2001, 2, 3))
    assert prepare(run).status.digest == first


def test_unmasked_messages_are_learnt_too(tmp_path: Path, model: Path) -> None:
    rows = [conversation("hello", "you"), {**conversation("hello", "you"), "unmask": True}]
    masked, own = prepare(job(tmp_path, model, rows)).samples.loss_tokens
    assert masked == len("you") + 1
    assert own >= masked + len("hello")
    both = prepare(job(tmp_path, model, rows, unmaskMessages=True)).samples.loss_tokens
    assert both.tolist() == [own, own]


def test_a_gang_opens_what_was_prepared_for_it_unless_it_is_gone(tmp_path: Path, model: Path) -> None:
    run = job(tmp_path, model, [conversation("hi", "you")])
    made = prepare(run)
    # Without a look at the data, which may be large.
    (tmp_path / "train.jsonl").unlink()
    digest = made.status.digest
    opened = open_all(run, {"train": digest})
    assert opened is not None
    assert opened.train.status == made.status
    assert open_all(run, {"train": "0" * 64}) is None
    # Another digest that begins alike.
    assert open_all(run, {"train": digest[:16] + "0" * 48}) is None
    next(directories(run)[0].glob("*.arrow")).write_bytes(b"")
    assert open_all(run, {"train": digest}) is None


def test_invalid_rows_are_all_counted_and_the_first_ones_named(tmp_path: Path, model: Path) -> None:
    good = conversation("x", "y")
    run = job(tmp_path, model, [good, "{", good, *[BAD] * 500])
    with pytest.raises(InvalidDataError) as caught:
        prepare(run)
    said = str(caught.value)
    assert said.startswith('spec.dataset.train: "train.jsonl" on claim "data"')
    assert "501 rows of 503 cannot be trained on: line 2: is not JSON" in said
    assert "line 4: messages[0].role: must be one of system, user, assistant" in said
    assert "line 6:" not in said
    assert said.endswith("; and 498 more")
    assert len(caught.value.details) == MAX_DETAILS
    assert caught.value.details[-1].startswith("line 102: messages[0].role")
    assert directories(run) == []


def test_invalid_rows_may_be_dropped_and_are_counted(
    tmp_path: Path, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = conversation("x", "y")
    run = dropping(job(tmp_path, model, [BAD, good, "{", good]))
    found = prepare(run)
    assert (found.status.samples, found.status.invalid) == (2, 2)
    assert "line 1: messages[0].role" in caplog.text
    assert "line 3: is not JSON" in caplog.text
    assert datasets.load_from_disk(str(directories(run)[0]))["sample"][:] == [1, 3]
    with pytest.raises(InvalidDataError, match=r"2 rows of 2 cannot be trained on: .*; nothing is left"):
        prepare(dropping(job(tmp_path, model, [BAD, "{"])))


def test_a_row_that_the_template_refuses_is_named(tmp_path: Path, model: Path) -> None:
    refusing = tmp_path / "refusing"
    save_tiny_model(refusing)
    settings = json.loads((refusing / "tokenizer_config.json").read_text())
    refusal = "{% if messages[0].role == 'system' %}{{ raise_exception('no system here') }}{% endif %}"
    settings["chat_template"] = refusal + settings["chat_template"]
    (refusing / "tokenizer_config.json").write_text(json.dumps(settings))
    row = conversation("x", "y")
    system = {"messages": [{"role": "system", "content": "s"}, *row["messages"]]}
    with pytest.raises(InvalidDataError, match=r"1 row of 2 cannot .*: line 2: messages: .*no system here"):
        prepare(job(tmp_path, refusing, [row, system]))
    # Whoever found them, faults stand in the order of their lines.
    with pytest.raises(InvalidDataError, match=r"line 1: messages: .*; line 2: is not JSON"):
        prepare(job(tmp_path, refusing, [system, "{", row]))


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "has no samples"),
        (["", "  "], "has no samples"),
        ([conversation("x", "y" * 200)] * 2, "all 2 samples are longer than 64 tokens, the longest has 2"),
    ],
)
def test_data_without_a_usable_sample_is_an_error(
    tmp_path: Path, model: Path, rows: list[Any], said: str
) -> None:
    with pytest.raises(InvalidDataError, match=said):
        prepare(job(tmp_path, model, rows, maxSeqLen=64))


def test_documents_become_blocks(tmp_path: Path, model: Path) -> None:
    documents = [{"text": "a" * 10}, {"text": " "}, {"text": "b" * 10}, {"text": ""}, {"text": "c" * 3}]
    pretraining = {"blockSize": 8, "documentColumnName": "text"}
    run = job(tmp_path, model, documents, pretraining=pretraining)
    found = prepare(run)
    # 23 characters, and an end of each of the three documents; the last block is padded.
    assert (found.status.samples, found.status.empty, found.status.dropped) == (4, 2, 0)
    assert set(found.samples.lengths.tolist()) == {8}
    # All but the padding, the first of each document, and the first of the three blocks that begin inside of one.
    assert found.status.loss_tokens == 26 - 3 - 3
    assert found.samples.loss_tokens.sum() == 20
    assert datasets.load_from_disk(str(directories(run)[0]))["sample"][:] == [0, 0, 2, 4]
    with pytest.raises(InvalidDataError, match="all 2 documents are empty"):
        prepare(job(tmp_path, model, [{"text": ""}, {"text": "\n"}], pretraining=pretraining))
