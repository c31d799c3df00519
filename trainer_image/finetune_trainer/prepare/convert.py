"""What becomes of some rows of the data, one behind the other: samples, or faults. This is what worker processes do."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from finetune_trainer.prepare.arrow import Ids, Part
from finetune_trainer.prepare.encode import Encoded
from finetune_trainer.prepare.faults import Fault, FaultyRowError
from finetune_trainer.prepare.read import RawRow, parse
from finetune_trainer.prepare.rows import Conversation, conversation, document
from finetune_trainer.prepare.task import Task
from finetune_trainer.prepare.tokenizer import ChatTokenizer, DocumentTokenizer


@dataclass(frozen=True)
class Rows:
    """Rows as they were read."""

    first: int
    """Number of the first of them, counted from 0."""
    rows: Sequence[RawRow]


@dataclass(frozen=True)
class Converted:
    """What some rows came to."""

    rows: int
    end: int
    """Bytes of the file up to here; 0 where that is not known."""
    faults: list[Fault]
    lengths: Ids
    """[n] tokens of every sample, over-long ones too."""
    samples: Part
    """Those that are not over-long."""


@dataclass(frozen=True)
class Documents:
    """What some rows came to that are documents; samples are made of several together."""

    rows: int
    end: int
    faults: list[Fault]
    empty: int
    """Documents in which there is nothing."""
    documents: list[tuple[int, Ids]] = field(default_factory=list)
    """Their numbers and their tokens."""


def conversation_converter(task: Task) -> Callable[[Rows], Converted]:
    """Makes samples of rows. Raises InvalidConfigurationError where the model's tokenizer does not do for that."""
    chat = ChatTokenizer(task.model)

    def convert(rows: Rows) -> Converted:
        faults: dict[int, Fault] = {}
        valid: list[tuple[int, RawRow, Conversation]] = []
        for number, raw in enumerate(rows.rows, start=rows.first):
            try:
                found = conversation(parse(raw), task.columns, unmask_messages=task.unmask_messages)
                valid.append((number, raw, found))
            except FaultyRowError as error:
                faults[number] = Fault.at(raw.place, error)
        results = chat.encode([each for _, _, each in valid], unmask=task.unmask_messages)
        encoded: list[tuple[int, Encoded]] = []
        for (number, raw, _), result in zip(valid, results, strict=True):
            if isinstance(result, str):
                faults[number] = Fault(raw.place, task.columns.messages or "messages", result)
            else:
                encoded.append((number, result))
        return Converted(
            rows=len(rows.rows),
            end=rows.rows[-1].end,
            faults=[faults[number] for number in sorted(faults)],
            lengths=np.array([len(each.input_ids) for _, each in encoded], np.int32),
            samples=Part.of((n, each) for n, each in encoded if len(each.input_ids) <= task.limit),
        )

    return convert


def document_converter(task: Task) -> Callable[[Rows], Documents]:
    """Makes tokens of documents. Raises InvalidConfigurationError where the model's tokenizer does not do for that."""
    tokenizer = DocumentTokenizer(task.model)
    assert task.pretraining is not None
    column = task.pretraining.document_column_name

    def convert(rows: Rows) -> Documents:
        faults: list[Fault] = []
        valid: list[tuple[int, str]] = []
        empty = 0
        for number, raw in enumerate(rows.rows, start=rows.first):
            try:
                text = document(parse(raw), column)
            except FaultyRowError as error:
                faults.append(Fault.at(raw.place, error))
                continue
            if text:
                valid.append((number, text))
            else:
                empty += 1
        tokens = tokenizer.encode([text for _, text in valid])
        documents = [
            (number, np.array(ids, np.int32)) for (number, _), ids in zip(valid, tokens, strict=True)
        ]
        return Documents(len(rows.rows), rows.rows[-1].end, faults, empty, documents)

    return convert
