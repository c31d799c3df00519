"""Data, read, validated, rendered, masked, tokenised and measured once, then kept for all who train on it."""

import logging
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from finetune_api.report import MAX_DETAILS, Preparation
from finetune_api.status import DatasetStatus, Lengths
from finetune_trainer import commit
from finetune_trainer.ends.errors import InvalidDataError
from finetune_trainer.prepare import read
from finetune_trainer.prepare.arrow import Ids, Part, Prepared, Samples, SampleWriter
from finetune_trainer.prepare.blocks import Blocks
from finetune_trainer.prepare.convert import (
    Rows,
    conversation_converter,
    document_converter,
)
from finetune_trainer.prepare.faults import Fault
from finetune_trainer.prepare.parallel import available_processes, ordered
from finetune_trainer.prepare.task import Task
from finetune_trainer.prepare.tokenizer import DocumentTokenizer

_log = logging.getLogger(__name__)

_STATS = "stats.json"
# What is handed to a process at a time: by number for short rows, by bytes for long ones.
_ROWS_AT_A_TIME = 256
_BYTES_AT_A_TIME = 1 << 20
# Other processes take seconds to start. Less than this is done before they are ready.
_WORTH_OTHER_PROCESSES = 8 << 20
# Of all faults, those that stand in the message; the details have more.
_FAULTS_IN_MESSAGE = 3

Progress = Callable[[Preparation], None]


def load(directory: Path) -> Prepared | None:
    """Open a directory of prepared data; None if it is not a complete one."""
    status = _status(directory) if commit.read(directory, uid=None) else None
    return Prepared(Samples(directory), status) if status else None


def build(task: Task, digest: str, final: Path, *, writer: str, progress: Progress) -> Prepared:
    """Make the directory `final` of prepared data, or open it if it is there and intact. Other data there are replaced.

    `writer` names who does it: each writes into a directory of its own, and the first to be done gives it to all.
    """
    done = Preparation(rows=0, percent=0)

    def tick() -> None:
        progress(done)

    manifest, known = commit.read(final, uid=None), _status(final)
    if manifest and known and known.digest == digest:
        if commit.intact(final, manifest.files, tick):
            _log.info("using the data that were prepared earlier, in %s", final)
            return Prepared(Samples(final), known)
        _log.warning("%s is damaged: the data are prepared anew", final)
    if manifest:
        commit.remove_shared(final, manifest, writer=writer)
    directory = commit.start(final, writer)
    try:
        status, done = _write(task, digest, directory, progress)
        commit.publish_shared(final, files=commit.sealed(directory.iterdir(), tick), writer=writer)
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    _log.info("prepared %d samples; %d were too long and are left out", status.samples, status.dropped)
    return Prepared(Samples(final), status)


def _status(directory: Path) -> DatasetStatus | None:
    try:
        return DatasetStatus.model_validate_json((directory / _STATS).read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValidationError):
        return None


@dataclass
class _Counts:
    """What was found so far."""

    rows: int = 0
    samples: int = 0
    dropped: int = 0
    empty: int = 0
    tokens: int = 0
    loss_tokens: int = 0
    longest: int = 0
    faults: int = 0
    shown: list[Fault] = field(default_factory=list)
    """The first of the faults."""
    lengths: list[Ids] = field(default_factory=list)
    """Tokens of every sample, over-long ones too, in parts."""

    def add_rows(self, rows: int, faults: list[Fault]) -> None:
        self.rows += rows
        self.faults += len(faults)
        self.shown += faults[: MAX_DETAILS - len(self.shown)]

    def add_samples(self, part: Part, lengths: Ids) -> None:
        self.samples += len(part)
        self.dropped += len(lengths) - len(part)
        self.tokens += int(part.lengths.sum())
        self.loss_tokens += int(part.loss_tokens.sum())
        self.longest = max(self.longest, int(part.lengths.max(initial=0)))
        self.lengths.append(lengths)

    def status(self, task: Task, digest: str) -> DatasetStatus:
        """What the status says of the data."""
        return DatasetStatus(
            samples=self.samples,
            dropped=self.dropped,
            invalid=self.faults,
            empty=self.empty if task.pretraining else None,
            tokens=self.tokens,
            loss_tokens=self.loss_tokens,
            longest=self.longest,
            lengths=_percentiles(np.concatenate(self.lengths)),
            digest=digest,
        )


def _percentiles(lengths: Ids) -> Lengths:
    """The nearest ranks: lengths that there are."""
    ranks = np.percentile(lengths, [50, 95, 99, 100], method="inverted_cdf")
    p50, p95, p99, longest = (int(length) for length in ranks)
    return Lengths(p50=p50, p95=p95, p99=p99, max=longest)


def _write(task: Task, digest: str, directory: Path, progress: Progress) -> tuple[DatasetStatus, Preparation]:
    """Fill a directory. Raises InvalidDataError."""
    size = sum(file.stat().st_size for file in task.files)
    processes = available_processes() if size >= _WORTH_OTHER_PROCESSES else 1
    counts = _Counts()
    chunks = _chunks(read.all_rows(task.files, task.origin))
    done = Preparation(rows=0, percent=0)
    with SampleWriter(directory, fingerprint=digest[:16]) as writer:
        for part, end in _parts(task, chunks, processes, counts):
            # Nothing comes of what has faults, but all of them are to be told.
            if task.drop_invalid or not counts.faults:
                writer.write(part)
            done = Preparation(rows=counts.rows, percent=min(100, 100 * end // size))
            progress(done)
    _check(counts, task)
    status = counts.status(task, digest)
    (directory / _STATS).write_text(status.model_dump_json(by_alias=True, exclude_none=True, indent=1))
    return status, done


def _parts(task: Task, chunks: Iterable[Rows], processes: int, counts: _Counts) -> Iterator[tuple[Part, int]]:
    """Samples, with the bytes of the file that they come to."""
    if task.pretraining is not None:
        yield from _blocks(task, chunks, processes, counts)
        return
    make = partial(conversation_converter, task)
    with closing(ordered(make, chunks, processes)) as results:
        for result in results:
            counts.add_rows(result.rows, result.faults)
            counts.add_samples(result.samples, result.lengths)
            yield result.samples, result.end


def _blocks(
    task: Task, chunks: Iterable[Rows], processes: int, counts: _Counts
) -> Iterator[tuple[Part, int]]:
    """Blocks of documents, which go on from one row to the next."""
    assert task.pretraining is not None
    assert task.pretraining.block_size is not None
    tokenizer = DocumentTokenizer(task.model)
    blocks = Blocks(task.pretraining.block_size, tokenizer.padding)
    end = 0

    def counted(part: Part) -> tuple[Part, int]:
        counts.add_samples(part, part.lengths)
        return part, end

    make = partial(document_converter, task)
    with closing(ordered(make, chunks, processes)) as results:
        for result in results:
            counts.add_rows(result.rows, result.faults)
            counts.empty += result.empty
            end = result.end
            full = [block for number, ids in result.documents for block in blocks.add(ids, number)]
            yield counted(Part.of((block.sample, block) for block in full))
    yield counted(Part.of((block.sample, block) for block in blocks.finish()))


def _chunks(rows: Iterable[read.RawRow]) -> Iterator[Rows]:
    """Rows, put together so that it is worth handing them to another process."""
    first, some, size = 0, [], 0
    for row in rows:
        some.append(row)
        size += len(row.value) if isinstance(row.value, bytes) else 0
        if len(some) == _ROWS_AT_A_TIME or size >= _BYTES_AT_A_TIME:
            yield Rows(first, some)
            first, some, size = first + len(some), [], 0
    if some:
        yield Rows(first, some)


def _check(counts: _Counts, task: Task) -> None:
    details = [str(fault) for fault in counts.shown]
    if details:
        level = logging.WARNING if task.drop_invalid else logging.ERROR
        for detail in details:
            _log.log(level, "%s", detail)
        if counts.faults > len(details):
            _log.log(level, "and %d more rows that cannot be trained on", counts.faults - len(details))
    if counts.faults and not task.drop_invalid:
        raise InvalidDataError(_summary(counts, task, details), details)
    if counts.samples:
        return
    if counts.dropped:
        longest = max(int(part.max(initial=0)) for part in counts.lengths)
        raise InvalidDataError(
            f"{task.origin}: all {counts.dropped} samples are longer than {task.limit} tokens, the longest has "
            f"{longest}: raise spec.hyperparameters.maxSeqLen"
        )
    if counts.faults:
        raise InvalidDataError(f"{_summary(counts, task, details)}; nothing is left", details)
    if counts.empty:
        raise InvalidDataError(f"{task.origin} has no samples: all {counts.empty} documents are empty")
    raise InvalidDataError(f"{task.origin} has no samples")


def _summary(counts: _Counts, task: Task, details: list[str]) -> str:
    rows = "1 row" if counts.faults == 1 else f"{counts.faults} rows"
    more = counts.faults - _FAULTS_IN_MESSAGE
    shown = [*details[:_FAULTS_IN_MESSAGE], *([f"and {more} more"] if more > 0 else [])]
    return f"{task.origin}: {rows} of {counts.rows} cannot be trained on: {'; '.join(shown)}"
