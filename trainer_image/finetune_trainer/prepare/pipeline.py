"""Data, read, validated, rendered, masked, tokenised and measured once, then kept for all who train on it."""

import logging
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np

from finetune_api.report import Preparation
from finetune_api.status import DatasetStatus
from finetune_trainer import commit
from finetune_trainer.prepare import read
from finetune_trainer.prepare.arrow import Part, Samples, SampleWriter
from finetune_trainer.prepare.blocks import Blocks
from finetune_trainer.prepare.convert import Rows, conversation_converter, document_converter
from finetune_trainer.prepare.counts import Counts
from finetune_trainer.prepare.kept import HeldBack, Kept, described, keep, known_status
from finetune_trainer.prepare.parallel import available_processes, ordered
from finetune_trainer.prepare.task import Identity, Task
from finetune_trainer.prepare.tokenizer import DocumentTokenizer
from finetune_trainer.prepare.waiting import Documents, Waiting

_log = logging.getLogger(__name__)

# What is handed to a process at a time: by number for short rows, by bytes for long ones.
_ROWS_AT_A_TIME = 256
_BYTES_AT_A_TIME = 1 << 20
# Other processes take seconds to start. Less than this is done before they are ready.
_WORTH_OTHER_PROCESSES = 8 << 20

Progress = Callable[[Preparation], None]


def build(task: Task, identity: Identity, final: Path, *, writer: str, progress: Progress) -> Kept:
    """Make the directory `final` of prepared data, or open it if it is there and intact. Other data there are replaced.

    `identity` is that of the task. `writer` names who does it: each writes into a directory of its own, and the first
    to be done gives it to all.
    """
    done = Preparation(rows=0, percent=0)

    def tick() -> None:
        progress(done)

    manifest, known = commit.read(final, uid=None), known_status(final)
    if manifest and known and known.digest == identity.digest:
        if commit.intact(final, manifest.files, tick):
            _log.info("using the data that were prepared earlier, in %s", final)
            return Kept.of(final, known)
        _log.warning("%s is damaged: the data are prepared anew", final)
    if manifest:
        commit.remove_shared(final, manifest, writer=writer)
    directory = commit.start(final, writer)
    try:
        status, done = _write(task, identity.digest, directory, progress)
        # Nobody would find out from these what else was read.
        task.expect_unchanged(identity)
        commit.publish_shared(final, files=commit.sealed(directory.iterdir(), tick), writer=writer)
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    _log.info(
        "prepared %d samples of %s; %d were too long and are left out",
        status.samples,
        task.origin,
        status.dropped,
    )
    return Kept.of(final, status)


def _write(task: Task, digest: str, directory: Path, progress: Progress) -> tuple[DatasetStatus, Preparation]:
    """Fill a directory. Raises InvalidDataError."""
    size = task.bytes
    processes = available_processes() if size >= _WORTH_OTHER_PROCESSES else 1
    counts = Counts(task)
    chunks = _chunks(read.all_rows(task.files, task.origin))
    done = Preparation(rows=0, percent=0)
    parts = _conversations if task.pretraining is None else _blocks
    with SampleWriter(directory, fingerprint=digest[:16]) as writer:
        for part, end in parts(task, chunks, processes, counts, directory):
            # Where nothing comes of the data, all that is wrong with them is to be told nonetheless.
            if not counts.unusable:
                writer.write(part)
            counts.samples += len(part)
            done = Preparation(rows=counts.rows, percent=min(100, 100 * end // max(1, size)))
            progress(done)
    counts.check()
    findings = counts.findings
    empty = counts.empty if task.pretraining else None
    status = described(digest, Samples(directory), findings, invalid=counts.faults, empty=empty)
    keep(directory, status, findings)
    return status, done


# Samples, with the bytes of the files that they come to.
_Parts = Iterator[tuple[Part, int]]


def _conversations(
    task: Task, chunks: Iterable[Rows], processes: int, counts: Counts, _directory: Path
) -> _Parts:
    """A sample of each row."""
    make = partial(conversation_converter, task)
    with closing(ordered(make, chunks, processes)) as results:
        for result in results:
            counts.add_rows(result.rows, result.faults, result.contents)
            counts.add_questions(result.questions)
            counts.overlong.append(result.overlong)
            yield result.samples, result.end


def _blocks(task: Task, chunks: Iterable[Rows], processes: int, counts: Counts, directory: Path) -> _Parts:
    """Blocks of documents, which go on from one row to the next; of documents that are held back, behind the others."""
    padding = DocumentTokenizer(task.model).padding
    documents = _documents(task, chunks, processes, counts)
    if task.split is None:
        yield from _joined(documents, task, padding)
        return
    with Waiting(directory) as waiting:
        end = 0
        for some, end in documents:
            waiting.add(some)
            # Nothing yet, but there is progress to tell.
            yield Part.of(()), end
        if not waiting or counts.unusable:
            return
        contents = np.concatenate(counts.contents)
        held_back = task.split.held_back(contents, waiting.lengths, task.origin)
        yield from _joined(((some, end) for some in waiting.those(~held_back)), task, padding)
        # Whoever takes parts has counted them.
        trained_on = counts.samples
        yield from _joined(((some, end) for some in waiting.those(held_back)), task, padding)
    counts.contents = [contents[~held_back], contents[held_back]]
    counts.held_back = HeldBack(counts.samples - trained_on, int(held_back.sum()))


def _documents(
    task: Task, chunks: Iterable[Rows], processes: int, counts: Counts
) -> Iterator[tuple[Documents, int]]:
    """Documents, with the bytes of the files that they come to."""
    make = partial(document_converter, task)
    with closing(ordered(make, chunks, processes)) as results:
        for result in results:
            counts.add_rows(result.rows, result.faults, result.contents)
            counts.empty += result.empty
            yield result.documents, result.end


def _joined(documents: Iterable[tuple[Documents, int]], task: Task, padding: int) -> _Parts:
    """Documents as blocks."""
    assert task.pretraining is not None
    assert task.pretraining.block_size is not None
    blocks = Blocks(task.pretraining.block_size, padding)
    end = 0
    for some, end in documents:
        full = [block for number, ids in some for block in blocks.add(ids, number)]
        yield Part.of((block.sample, block) for block in full), end
    yield Part.of((block.sample, block) for block in blocks.finish()), end


def _chunks(rows: Iterable[read.RawRow]) -> Iterator[Rows]:
    """Rows, put together so that it is worth handing them to another process."""
    first, some, size = 0, [], 0
    for row in rows:
        some.append(row)
        size += _size(row.value)
        if len(some) == _ROWS_AT_A_TIME or size >= _BYTES_AT_A_TIME:
            yield Rows(first, some)
            first, some, size = first + len(some), [], 0
    if some:
        yield Rows(first, some)


def _size(value: object) -> int:
    """Bytes that a row takes in memory: one that is still to be parsed, or with all that is in it."""
    size = sys.getsizeof(value)
    if isinstance(value, dict):
        return size + sum(map(_size, value.values()))
    if isinstance(value, list):
        return size + sum(map(_size, value))
    return size
