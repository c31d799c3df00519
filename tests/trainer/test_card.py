"""The model card, and that nothing about it costs the model."""

import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard, ModelCardData
from hypothesis import given
from hypothesis import strategies as st

from finetune_api import names
from finetune_api.plan import study
from finetune_api.report import Metrics, StepRecord
from finetune_api.runconfig import Locations, run_config
from finetune_api.scores import Evaluated, SetScore
from finetune_api.spec import FineTuneJob
from finetune_api.status import DatasetStatus, EvaluationData, Lengths
from finetune_trainer.card import curves, text
from finetune_trainer.card.curves import draw, smoothed
from finetune_trainer.card.environment import Environment
from finetune_trainer.card.markdown import code, table
from finetune_trainer.card.metadata import license_of
from finetune_trainer.card.writer import Card
from finetune_trainer.reports.reporter import Reporter
from finetune_trainer.sources.record import Record, Recorded
from finetune_trainer.storage import Storage
from unit.test_plan import model
from unit.test_reproduce import DATA
from world import manifest

COMMIT = "0123456789abcdef0123456789abcdef01234567"
HUB = {"huggingFace": {"repo": "org/base-1b", "revision": "main"}}
FOUND = {
    "model": ('Hugging Face repository "org/base-1b" at "main"', COMMIT, "sha256:of-model"),
    "train": (
        '"a|b.jsonl" in Hugging Face repository "org/talks" at "main"',
        f"f{COMMIT[1:]}",
        "sha256:of-train",
    ),
}
STEPS = 10


def evaluated(step: int, **losses: float) -> Evaluated:
    scores = [
        SetScore.of(name, loss_sum=100 * loss, correct=40, tokens=100).model_copy(
            update={"change": loss - 2.0 if step else None}
        )
        for name, loss in losses.items()
    ]
    return Evaluated(step=step, epoch=step / 5, time=datetime.now(UTC), sets=scores)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Card]:
    """What is told of an adapter for a model of the hub, whose best weights are those after the fifth step."""
    wire = manifest(
        "support",
        method="lora",
        lora={"r": 8},
        model=HUB,
        dataset={
            "train": {"huggingFace": {"repo": "org/talks", "path": "a|b.jsonl"}},
            "validationSplit": 0.1,
        },
        checkpoints={"deliverBest": True},
        evaluation={"earlyStopping": {"patience": 1}},
        resources={"nodes": 1, "gpusPerNode": 0},
    )
    wire["metadata"]["uid"] = "u-1"
    job = FineTuneJob.model_validate(wire)
    snapshot = tmp_path / ".downloads/huggingface/models--org--base-1b/snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "README.md").write_text("---\nlicense: apache-2.0\nlicense_name: none\n---\n# Base\n")
    locations = Locations(model=str(snapshot), data={"train": ["/t"]}, storage=str(tmp_path / "support"))
    config = run_config(job, locations, None)
    storage = Storage.of(config)
    storage.root.mkdir()
    Record(
        uid="u-1",
        inputs=[
            Recorded(name=name, origin=origin, revision=revision, digest=digest, bytes=1)
            for name, (origin, revision, digest) in FOUND.items()
        ],
    ).keep(config)
    reporter = Reporter(storage, 2, None, silent=False)
    reporter.update(
        plan=study(job.spec, model("llama-3.2-1b"), DATA).plan,
        dataset=DatasetStatus(
            samples=1800,
            dropped=3,
            tokens=90_000,
            loss_tokens=45_000,
            longest=1500,
            lengths=Lengths(p50=1, p95=2, p99=3, max=4),
            duplicates=7,
            digest="d",
        ),
        evaluation_data=[EvaluationData(name="validation", samples=200, loss_tokens=5000)],
    )
    reporter.evaluated(evaluated(0, validation=2.0))
    for step in range(1, STEPS + 1):
        reporter.update(metrics=Metrics(step=step, loss=2.0 - step / 10, learning_rate=1e-5, samples=128))
    reporter.evaluated(evaluated(5, validation=1.5))
    reporter.evaluated(evaluated(STEPS, validation=1.75))
    reporter.stopped_early("no improvement of the validation loss in 1 evaluation: best 1.5 at step 5")
    Environment(software={"torch": "2.15.0"}, devices={"CPU of some kind": 1}, threads=2).keep(storage)
    yield Card(config, storage, reporter)
    reporter.close()


def written(run: Card, directory: Path, kind: Any = "adapter", step: int = 5) -> dict[str, bytes]:
    directory.mkdir(exist_ok=True)
    run.write(directory, kind, step)
    return {file.name: file.read_bytes() for file in directory.iterdir()}


def header(card: ModelCard) -> ModelCardData:
    assert isinstance(card.data, ModelCardData)
    return card.data


def test_it_tells_how_the_result_was_made(run: Card, tmp_path: Path) -> None:
    files = written(run, tmp_path / "out")
    assert files.keys() == {names.MODEL_CARD_FILE, names.MANIFEST_FILE, names.LOSS_PLOT_FILE}
    card = ModelCard(files[names.MODEL_CARD_FILE].decode())
    data = header(card)
    assert (data.base_model, data.get("base_model_relation")) == ("org/base-1b", "adapter")
    assert (data.library_name, data.license, data.datasets) == ("peft", "apache-2.0", ["org/talks"])
    results = {result.metric_type: result.metric_value for result in data.eval_results or ()}
    assert results["loss"] == 1.5
    for told in (
        f'from_pretrained("org/base-1b", revision="{COMMIT}", dtype="auto")',
        f"| base model | {FOUND['model'][0]} | `{COMMIT}` | `sha256:of-model` |",
        "| trained on | 1,800 | 45,000 | left out: 3 too long; equal to an earlier one: 7 |",
        "| `validation` | 200 | 5,000 | held back from the training data |",
        "| `validation` | 2 | 1.5 | -0.5 | 7.389 → 4.482 | 40.0% → 40.0% |",
        "Training ended early: no improvement of the validation loss in 1 evaluation: best 1.5 at step 5.",
        "The weights are those after step 5, which have the lowest validation loss.",
        "![Losses of training and evaluations by optimizer step](loss.png)",
        "| `lora.r` | 8 |  |",
        "| `lora.alpha` | 16 | twice r, which is 8 |",
        "| `hyperparameters.learningRate` | 1e-05 | where lora starts; ",
        "| hardware | 1 × CPU of some kind, 2 threads per process |",
        "It took 2 attempts; this is of the last one.",
        "`default/support` with uid `u-1`",
    ):
        assert told in card.text
    assert f"revision: '{COMMIT}'" in files[names.MANIFEST_FILE].decode()


def test_a_merged_model_is_loaded_as_one(run: Card, tmp_path: Path) -> None:
    card = ModelCard(written(run, tmp_path / "out", "merged")[names.MODEL_CARD_FILE].decode())
    assert header(card).library_name == "transformers"
    assert header(card).get("base_model_relation") == "finetune"
    assert "peft" not in card.text


@pytest.mark.parametrize(
    ("broken", "missing"),
    [
        ((curves, "draw"), {names.LOSS_PLOT_FILE}),
        ((text, "card"), {names.MODEL_CARD_FILE}),
    ],
)
def test_what_cannot_be_made_is_left_out_and_logged(
    run: Card,
    tmp_path: Path,
    broken: tuple[Any, str],
    missing: set[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: object) -> bytes:
        raise OSError("no writable cache directory")

    monkeypatch.setattr(*broken, fail)
    files = written(run, tmp_path / "out")
    assert files.keys() == {names.MODEL_CARD_FILE, names.MANIFEST_FILE, names.LOSS_PLOT_FILE} - missing
    # It speaks of nothing that is not there.
    assert b"loss.png" not in files.get(names.MODEL_CARD_FILE, b"") or names.LOSS_PLOT_FILE in files
    assert "cannot be made; the model is complete without it" in caplog.text
    assert "no writable cache directory" in caplog.text


def test_without_what_draws_there_is_no_plot(
    run: Card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, curves.__name__, None)
    assert written(run, tmp_path / "out").keys() == {names.MODEL_CARD_FILE, names.MANIFEST_FILE}
    assert "the plot of losses cannot be made" in caplog.text


def test_without_a_recorded_commit_there_is_no_manifest_and_the_card_promises_none(
    run: Card, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (run.storage.root / names.INPUTS_FILE).unlink()
    files = written(run, tmp_path / "out")
    assert files.keys() == {names.MODEL_CARD_FILE, names.LOSS_PLOT_FILE}
    assert names.MANIFEST_FILE.encode() not in files[names.MODEL_CARD_FILE]
    assert "which commit" in caplog.text


def test_what_the_volume_does_not_take_is_an_error(run: Card, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        run.write(tmp_path / "gone", "adapter", 5)


@pytest.mark.parametrize("content", [None, "# no header", "---\nlicense: [\n---\n", "\xff---"])
def test_a_base_model_need_not_tell_its_license(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "README.md").write_bytes(content.encode("latin-1"))
    assert license_of(tmp_path) == {}


@given(st.lists(st.text(), min_size=2, max_size=4))
def test_whatever_stands_in_a_table_it_has_its_columns(cells: list[str]) -> None:
    head, rule, row = table(["", *cells], [[code("x"), *cells]]).split("\n")
    bare = [line.replace("\\|", "") for line in (head, rule, row)]
    assert {line.count("|") for line in bare} == {len(cells) + 2}


@given(st.lists(st.floats(0, 100), min_size=1, max_size=40), st.integers(1, 50))
def test_smoothing_keeps_to_what_is_there(values: list[float], width: int) -> None:
    found = smoothed(values, width)
    assert len(found) == len(values)
    for place, mean in enumerate(found):
        near = values[max(0, place - width) : place + width + 1]
        assert mean == pytest.approx(sum(near) / len(near), abs=1e-6)


def test_a_plot_needs_something_to_show_and_is_the_same_each_time() -> None:
    history = [evaluated(step, validation=2.0 - step, general=1.0) for step in range(3)]
    steps = [StepRecord(step=n, loss=1.0 / n, attempt=1, time=datetime.now(UTC)) for n in range(1, 200)]
    assert draw([], [], 0) is None
    assert draw(steps[:1], [], 1) is None
    image = draw(steps, history, 2)
    assert image is not None
    assert image.startswith(b"\x89PNG")
    assert image == draw(steps, history, 2)
    assert draw(steps, [], 199) is not None
    assert draw([], history, 2) is not None
