"""From JSONL to prepared data."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune_api.runconfig import RunConfig
from finetune_trainer.errors import InvalidDataError
from finetune_trainer.prepare.pipeline import Prepared, load, prepare
from finetune_trainer.storage import Storage
from tiny import conversation, save_tiny_model
from trainer.gangs import config

CONTEXT = 256


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    save_tiny_model(directory)
    return directory


def job(base: Path, model: Path, rows: list[Any], **hyperparameters: Any) -> tuple[RunConfig, Storage]:
    """A run whose data are `rows`; strings stand for themselves."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (base / "train.jsonl").write_text("".join(line + "\n" for line in lines))
    made = config(base, **hyperparameters)
    made = made.model_copy(update={"locations": made.locations.model_copy(update={"model": str(model)})})
    return made, Storage.of(made)


def prepared(run: RunConfig, storage: Storage) -> Prepared:
    ticks: list[None] = []
    directory = prepare(run, storage, CONTEXT, lambda: ticks.append(None))
    assert ticks
    return load(directory, storage)


def test_samples_are_measured_and_kept_in_order(tmp_path: Path, model: Path) -> None:
    rows = [conversation("hi", "y" * n) for n in (3, 1, 2)] * 1000
    found = prepared(*job(tmp_path, model, rows))
    # Each answer, its end-of-turn token; <|im_start|>, "user", a line break and so on around them.
    frame = len("user\nassistant\n\n\n") + 2 + 3
    assert found.samples.lengths[:3].tolist() == [frame + n + 1 for n in (3, 1, 2)]
    assert found.samples.loss_tokens[:3].tolist() == [4, 2, 3]
    assert found.status.samples == len(found.samples) == 3000
    assert (found.status.tokens, found.status.loss_tokens) == (3000 * (frame + 3), 9000)
    # Beyond the first record batch, too.
    input_ids, labels = found.samples[2999]
    assert len(input_ids) == len(labels) == found.samples.lengths[2999]
    assert input_ids.dtype == np.int32
    assert (labels != -100).sum() == 3


def test_samples_that_are_too_long_are_left_out_and_counted(tmp_path: Path, model: Path) -> None:
    rows = [conversation("hi", "y" * n) for n in (5, 100, 300, 5)]
    found = prepared(*job(tmp_path, model, rows, maxSeqLen=100))
    assert (found.status.samples, found.status.dropped) == (2, 2)
    assert found.status.longest < 100
    assert found.status.lengths is not None
    assert found.status.lengths.max > 300


def test_without_a_limit_it_is_the_model_s_context(tmp_path: Path, model: Path) -> None:
    rows = [conversation("hi", "y" * n) for n in (5, 100, 300, 5)]
    found = prepared(*job(tmp_path, model, rows))
    assert (found.status.samples, found.status.dropped) == (3, 1)


def test_what_was_prepared_is_used_again_unless_something_changed(tmp_path: Path, model: Path) -> None:
    run, storage = job(tmp_path, model, [conversation("hi", "you")])

    def directory(run: RunConfig = run) -> Path:
        return prepare(run, storage, CONTEXT, lambda: None)

    first = directory()
    written = (first / "train.arrow").stat().st_mtime_ns
    assert directory() == first
    assert (first / "train.arrow").stat().st_mtime_ns == written
    # A prepared directory that was damaged is made anew.
    (first / "train.arrow").write_bytes(b"")
    assert directory() == first
    assert (first / "train.arrow").stat().st_size > 0
    limited = run.hyperparameters.model_copy(update={"max_seq_len": 99})
    assert directory(run.model_copy(update={"hyperparameters": limited})) != first
    job(tmp_path, model, [conversation("hi", "me")])
    assert directory() != first


def test_invalid_rows_are_all_counted_and_the_first_ones_named(tmp_path: Path, model: Path) -> None:
    good, bad = conversation("x", "y"), {"messages": [{"role": "bot", "content": "x"}]}
    run, storage = job(tmp_path, model, [good, "{", good, *[bad] * 30])
    with pytest.raises(InvalidDataError) as caught:
        prepare(run, storage, CONTEXT, lambda: None)
    said = str(caught.value)
    assert said.startswith('spec.dataset.train: "train.jsonl" on claim "data"')
    assert "has invalid rows, 31 in all: line 2: is not JSON" in said
    assert "line 22: messages[0].role: must be one of system, user, assistant" in said
    assert "line 23:" not in said
    assert said.endswith("; and 11 more")
    assert [path.suffix for path in storage.data.iterdir()] == [".incomplete"]


def test_a_row_that_the_template_refuses_is_named(tmp_path: Path, model: Path) -> None:
    refusing = tmp_path / "refusing"
    save_tiny_model(refusing)
    settings = json.loads((refusing / "tokenizer_config.json").read_text())
    refusal = "{% if messages[0].role == 'system' %}{{ raise_exception('no system here') }}{% endif %}"
    settings["chat_template"] = refusal + settings["chat_template"]
    (refusing / "tokenizer_config.json").write_text(json.dumps(settings))
    row = conversation("x", "y")
    system = {"messages": [{"role": "system", "content": "s"}, *row["messages"]]}
    run, storage = job(tmp_path, refusing, [row, system])
    with pytest.raises(InvalidDataError, match=r"1 in all: line 2: messages: .*no system here"):
        prepare(run, storage, CONTEXT, lambda: None)


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
    run, storage = job(tmp_path, model, rows, maxSeqLen=64)
    with pytest.raises(InvalidDataError, match=said):
        prepare(run, storage, CONTEXT, lambda: None)
