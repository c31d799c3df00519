"""Whole files beside those of instructlab.training and mini_trainer: what is kept, and how documents become blocks."""

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.prepare.arrow import Prepared
from finetune_trainer.prepare.data_sets import prepare_all
from finetune_trainer.prepare.encode import MASKED
from styles import BY_NAME, save_style
from trainer.gangs import config

data_process = pytest.importorskip(
    "instructlab.training.data_process", reason="the group `peers` is not installed"
)
instructlab = pytest.importorskip("instructlab.training.sampler", reason="the group `peers` is not installed")
mini_trainer = pytest.importorskip("mini_trainer.sampler", reason="the group `peers` is not installed")
pytestmark = pytest.mark.peers

LIMIT = 63
BLOCK = 16
DOCUMENTS = ["hello there", "", "answer", "question " * 20, "no", "yes where is the answer to that question"]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    save_style(tmp_path / "model", BY_NAME["chatml"])
    return tmp_path


def write(file: Path, rows: list[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def samples(prepared: Prepared) -> list[tuple[list[int], list[int]]]:
    found = (prepared.samples[index] for index in range(len(prepared.samples)))
    return [(ids.tolist(), labels.tolist()) for ids, labels in found]


def test_conversations_of_a_file(base: Path) -> None:
    """The same samples with the same number of tokens to count. Theirs leave out what has fewer than 20 tokens, for the
    sake of a generator of data that made broken ones, and what has just as many as allowed; neither is wrong, so ours
    keep them."""
    system = {"role": "system", "content": "s"}
    rows = [
        {
            "messages": [
                system,
                {"role": "user", "content": "q"},
                {"role": "assistant", "content": "a" * length},
            ]
        }
        for length in range(1, 60, 3)
    ]
    write(base / "train.jsonl", rows)
    ours = prepare_all(config(base, maxSeqLen=LIMIT), LIMIT, lambda _: None).train
    data_process.process_data(
        str(base / "train.jsonl"), str(base / "theirs"), LIMIT, str(base / "model"), num_cpu_procs=1
    )
    theirs = [(row["input_ids"], row["labels"]) for row in lines(base / "theirs" / "data.jsonl")]
    assert len(theirs) < len(ours.samples)
    assert theirs == [sample for sample in samples(ours) if 20 <= len(sample[0]) < LIMIT]
    lengths = ours.samples.lengths.tolist()
    assert min(lengths) < 20
    assert max(lengths) == LIMIT
    # Ours of the same samples: labels are counted where they are predicted.
    counted = mini_trainer.JsonlDataset(str(base / "theirs" / "data.jsonl")).dataset[
        "num_loss_counted_tokens"
    ]
    kept = [20 <= length < LIMIT for length in lengths]
    assert ours.samples.loss_tokens[kept].tolist() == list(counted)


@pytest.mark.parametrize("package", [instructlab, mini_trainer], ids=["instructlab", "mini_trainer"])
@pytest.mark.parametrize("documents", [DOCUMENTS, DOCUMENTS[:3], ["x" * (BLOCK - 1)]], ids=len)
def test_blocks_of_documents(base: Path, package: Any, documents: list[str]) -> None:
    """The same blocks, with the same padding and labels, but for the first token of each document: it follows from
    nothing, least of all from the end of the document before, so ours take no loss on it."""
    write(base / "train.jsonl", [{"document": document} for document in documents])
    ours = prepare_all(config(base, pretraining={"blockSize": BLOCK}), BLOCK, lambda _: None).train
    data_process.process_documents_for_pretraining(
        str(base / "train.jsonl"), str(base / "theirs"), str(base / "model"), num_cpu_procs=1
    )
    tokenized = [row["input_ids"] for row in lines(base / "theirs" / "data.jsonl")]
    padding = samples(ours)[-1][0][-1]
    blocks = package.PretrainingBlockDataset.from_jsonl_file(
        str(base / "theirs" / "data.jsonl"), BLOCK, padding
    )
    theirs = [blocks[index] for index in range(len(blocks))]
    assert [ids for ids, _ in samples(ours)] == [block["input_ids"].tolist() for block in theirs]

    starts = {sum(map(len, tokenized[:number])) for number in range(len(tokenized))}
    labels = [label for block in theirs for label in block["labels"].tolist()]
    expected = [MASKED if place in starts else label for place, label in enumerate(labels)]
    assert [label for _, ours_of in samples(ours) for label in ours_of] == expected
    assert ours.status.empty == documents.count("")


def test_a_document_of_blanks_is_empty(base: Path) -> None:
    """There is nothing to learn from it; theirs leave out documents without any character only."""
    write(base / "train.jsonl", [{"document": " \n "}, {"document": "hello " * 9}])
    ours = prepare_all(config(base, pretraining={"blockSize": BLOCK}), BLOCK, lambda _: None).train
    data_process.process_documents_for_pretraining(
        str(base / "train.jsonl"), str(base / "theirs"), str(base / "model"), num_cpu_procs=1
    )
    assert ours.status.empty == 1
    assert len(lines(base / "theirs" / "data.jsonl")) == 2
