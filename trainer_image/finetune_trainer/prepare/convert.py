"""What becomes of some rows of the data, one behind the other: samples, or faults. This is what worker processes do."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from finetune_trainer.prepare.arrow import Ids, Part
from finetune_trainer.prepare.contents import Contents, content
from finetune_trainer.prepare.encode import Encoded
from finetune_trainer.prepare.faults import Fault, FaultyRowError
from finetune_trainer.prepare.questions import Question, check_reference
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
    """Bytes of the files up to here, as RawRow has them."""
    faults: list[Fault]
    overlong: Ids
    """Tokens of each sample that has too many."""
    samples: Part
    """The others."""
    contents: Contents
    """Of those."""
    questions: list[Question]
    """Of those, where answers are compared."""


@dataclass(frozen=True)
class Documents:
    """What some rows came to that are documents; samples are made of several together."""

    rows: int
    end: int
    faults: list[Fault]
    empty: int
    """Documents in which there is nothing."""
    documents: list[tuple[int, Ids]]
    """Their numbers and their tokens."""
    contents: Contents


def conversation_converter(task: Task) -> Callable[[Rows], Converted]:
    """Makes samples of rows. Raises InvalidConfigurationError where the model's tokenizer does not do for that."""
    chat = ChatTokenizer(task.model)

    def convert(rows: Rows) -> Converted:
        faults: dict[int, Fault] = {}
        valid: list[tuple[int, RawRow, Conversation]] = []
        for number, raw in enumerate(rows.rows, start=rows.first):
            try:
                found = conversation(
                    parse(raw),
                    task.columns,
                    unmask_messages=task.unmask_messages,
                    columns_field=task.columns_field,
                )
                if task.generate is not None:
                    check_reference(found, task.generate)
                valid.append((number, raw, found))
            except FaultyRowError as error:
                faults[number] = Fault.at(raw.place, error)
        conversations = [each for _, _, each in valid]
        results = chat.encode(conversations, unmask=task.unmask_messages)
        prompts = chat.prompts(conversations) if task.generate is not None else [()] * len(conversations)
        encoded: list[tuple[int, Encoded]] = []
        questions: list[Question] = []
        overlong: list[int] = []
        for (number, raw, asked), result, prompt in zip(valid, results, prompts, strict=True):
            if isinstance(result, str) or isinstance(prompt, str):
                reason = result if isinstance(result, str) else str(prompt)
                faults[number] = Fault(raw.place, task.columns.messages or "messages", reason)
            elif len(result.input_ids) > task.limit:
                overlong.append(len(result.input_ids))
            else:
                encoded.append((number, result))
                if task.generate is not None:
                    questions.append(Question(number, prompt, asked.messages[-1]["content"]))
        return Converted(
            rows=len(rows.rows),
            end=rows.rows[-1].end,
            faults=[faults[number] for number in sorted(faults)],
            overlong=np.array(overlong, np.int32),
            samples=Part.of(encoded),
            contents=np.array([content(each.input_ids, each.labels) for _, each in encoded], np.uint64),
            questions=questions,
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
        contents = np.array([content(ids) for _, ids in documents], np.uint64)
        return Documents(len(rows.rows), rows.rows[-1].end, faults, empty, documents, contents)

    return convert
