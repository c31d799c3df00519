"""Training data, read, validated, rendered, masked, tokenised and measured once, then kept for every attempt."""

import hashlib
import itertools
import logging
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from jinja2.exceptions import TemplateError as JinjaError

from finetune_api.runconfig import RunConfig
from finetune_api.status import DatasetStatus, Lengths
from finetune_trainer import commit
from finetune_trainer.errors import InvalidDataError, described
from finetune_trainer.prepare.arrow import Samples, SampleWriter
from finetune_trainer.prepare.encode import Encoded
from finetune_trainer.prepare.render import Rendered, TemplateError, render
from finetune_trainer.prepare.rows import Fault, Row, parse
from finetune_trainer.prepare.tokenizer import FILES as TOKENIZER_FILES
from finetune_trainer.prepare.tokenizer import ChatTokenizer
from finetune_trainer.storage import Storage

_log = logging.getLogger(__name__)

_FILE = "train.arrow"
# Changes whenever the same data would be prepared differently.
_FORMAT = 2
_ROWS_AT_A_TIME = 256
_FAULTS_SHOWN = 20


@dataclass
class Counts:
    """What was found."""

    samples: int = 0
    """Samples that are trained on."""
    dropped: int = 0
    """Samples left out because they are too long."""
    tokens: int = 0
    loss_tokens: int = 0
    longest: int = 0
    """Tokens of the longest sample that is trained on."""
    lengths: "array[int]" = field(default_factory=lambda: array("I"))
    """Tokens of every sample, dropped or not."""

    def percentiles(self) -> Lengths:
        """How long the samples are: the nearest ranks."""
        ordered = sorted(self.lengths)

        def rank(percent: int) -> int:
            return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]

        return Lengths(p50=rank(50), p95=rank(95), p99=rank(99), max=rank(100))

    def facts(self, digest: str) -> DatasetStatus:
        """What the status says of the data."""
        return DatasetStatus(
            samples=self.samples,
            dropped=self.dropped,
            tokens=self.tokens,
            loss_tokens=self.loss_tokens,
            longest=self.longest,
            lengths=self.percentiles(),
            digest=digest,
        )


@dataclass(frozen=True)
class Prepared:
    """Prepared data, open for reading."""

    samples: Samples
    status: DatasetStatus


@dataclass
class _Faults:
    count: int = 0
    shown: list[Fault] = field(default_factory=list)

    def add(self, fault: Fault) -> None:
        self.count += 1
        if len(self.shown) < _FAULTS_SHOWN:
            self.shown.append(fault)


def prepare(config: RunConfig, storage: Storage, context_length: int, tick: Callable[[], None]) -> Path:
    """Prepare the training data unless it has been done already; returns its directory.

    Samples longer than maxSeqLen (if it is not stated: than the model's context) are left out and counted. `tick`
    is called after every few rows. Raises InvalidDataError naming the rows that cannot be trained on.
    """
    limit = config.hyperparameters.max_seq_len or context_length
    final = storage.data / _digest(config, limit)[:16]
    if commit.read(final, uid=storage.uid):
        _log.info("using the data that was prepared earlier, in %s", final)
        return final
    directory = commit.start(final)
    chat = ChatTokenizer(Path(config.locations.model))
    counts, faults = Counts(), _Faults()
    with Path(config.locations.train).open("rb") as lines, SampleWriter(directory / _FILE) as writer:
        for sample, encoded in enumerate(_encoded(lines, chat, faults, tick)):
            if not faults.count:
                _take(encoded, sample, limit, counts, writer)
    _check(counts, faults, described(config.origins.train, Path(config.locations.train)), limit)
    facts = counts.facts(final.name).to_wire()
    commit.publish(final, uid=storage.uid, files=commit.sealed(directory.iterdir(), tick), facts=facts)
    _log.info("prepared %d samples; %d were too long and are left out", counts.samples, counts.dropped)
    return final


def load(directory: Path, storage: Storage) -> Prepared:
    """Open what `prepare` left."""
    manifest = commit.read(directory, uid=storage.uid)
    if manifest is None:
        raise FileNotFoundError(f"the prepared data in {directory} is gone or was changed")
    return Prepared(Samples(directory / _FILE), DatasetStatus.model_validate(manifest.facts))


def _take(encoded: Encoded, sample: int, limit: int, counts: Counts, writer: SampleWriter) -> None:
    length = len(encoded.input_ids)
    counts.lengths.append(length)
    if length > limit:
        counts.dropped += 1
        return
    writer.write(encoded, sample=sample)
    counts.samples += 1
    counts.tokens += length
    counts.loss_tokens += encoded.loss_tokens
    counts.longest = max(counts.longest, length)


def _check(counts: Counts, faults: _Faults, origin: str, limit: int) -> None:
    where = f"spec.dataset.train: {origin}"
    if faults.count:
        for fault in faults.shown:
            _log.error("%s", fault)
        more = f"; and {faults.count - len(faults.shown)} more" if faults.count > len(faults.shown) else ""
        shown = "; ".join(map(str, faults.shown))
        raise InvalidDataError(f"{where} has invalid rows, {faults.count} in all: {shown}{more}")
    if counts.dropped and not counts.samples:
        raise InvalidDataError(
            f"{where}: all {counts.dropped} samples are longer than {limit} tokens, the longest has "
            f"{max(counts.lengths)}: raise spec.hyperparameters.maxSeqLen"
        )
    if not counts.samples:
        raise InvalidDataError(f"{where} has no samples")


def _encoded(
    lines: Iterable[bytes], chat: ChatTokenizer, faults: _Faults, tick: Callable[[], None]
) -> Iterator[Encoded]:
    rows = parse(lines)
    while some := list(itertools.islice(rows, _ROWS_AT_A_TIME)):
        rendered = [text for row in some if (text := _rendered(row, chat, faults)) is not None]
        if rendered:
            yield from chat.encode(rendered)
        tick()


def _rendered(row: Row | Fault, chat: ChatTokenizer, faults: _Faults) -> Rendered | None:
    if isinstance(row, Fault):
        faults.add(row)
        return None
    try:
        return render(row.messages, chat.template)
    except (JinjaError, TemplateError) as error:
        faults.add(Fault(row.line, "messages", f"the model's chat template does not take them: {error}"))
        return None


def _digest(config: RunConfig, limit: int) -> str:
    """Of everything that decides what is prepared: data, tokenizer, template, settings."""
    digest = hashlib.sha256(f"format {_FORMAT}, at most {limit} tokens".encode())
    model = Path(config.locations.model)
    files = {file for pattern in TOKENIZER_FILES for file in model.glob(pattern) if file.is_file()}
    for file in [Path(config.locations.train), *sorted(files)]:
        with file.open("rb") as opened:
            digest.update(file.name.encode() + hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()
