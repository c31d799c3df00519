"""Prepared data: read, validated, rendered, masked, tokenised and measured once, then kept for every attempt."""

import hashlib
import itertools
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from datasets import Dataset, Features, Sequence, Value
from datasets.arrow_writer import ArrowWriter
from jinja2.exceptions import TemplateError as JinjaError

from finetune_api.runconfig import RunConfig
from finetune_api.status import DatasetStatus
from finetune_trainer import commit
from finetune_trainer.errors import InvalidDataError, described
from finetune_trainer.prepare.encode import Encoded
from finetune_trainer.prepare.render import Rendered, TemplateError, render
from finetune_trainer.prepare.rows import Fault, Row, parse
from finetune_trainer.prepare.tokenizer import ChatTokenizer
from finetune_trainer.storage import Storage

_log = logging.getLogger(__name__)

_ARROW_FILE = "train.arrow"
_FEATURES = Features(
    {
        "input_ids": Sequence(Value("int32")),
        "labels": Sequence(Value("int32")),
        "sample": Value("int64"),
        "length": Value("int32"),
        "loss_tokens": Value("int32"),
    }
)
# Changes whenever the same data would be prepared differently.
_FORMAT = 1
_ROWS_AT_A_TIME = 256
_FAULTS_SHOWN = 20
_TOKENIZER_FILES = (
    "tokenizer*",
    "chat_template*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
)


@dataclass(frozen=True)
class Prepared:
    """Prepared data, memory-mapped."""

    dataset: Dataset
    status: DatasetStatus
    longest_of_all: int
    """Longest sample in tokens before over-long ones were dropped."""
    lengths: npt.NDArray[np.int32]
    """Tokens of each sample."""
    loss_tokens: npt.NDArray[np.int32]
    """Tokens of each sample that loss is taken on."""

    def tokens(self, sample: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """input_ids and labels of a sample."""
        row = self.dataset[sample]
        return row["input_ids"], row["labels"]


def prepare(config: RunConfig, storage: Storage, context_length: int, tick: Callable[[], None]) -> Path:
    """Prepare the training data unless it has been done already; returns its directory.

    Samples longer than maxSeqLen (if it is not stated: than the model's context) are left out and counted. `tick`
    is called after every few rows. Raises InvalidDataError naming the rows that cannot be trained on.
    """
    limit = config.hyperparameters.max_seq_len or context_length
    final = storage.data / _digest(config, limit)[:16]
    if commit.read(final, uid=storage.uid):
        _log.info("using the data prepared earlier in %s", final)
        return final
    directory = commit.start(final)
    chat = ChatTokenizer(Path(config.locations.model))
    origin = described(config.origins.train, Path(config.locations.train))
    counts = _Counts()
    with (
        Path(config.locations.train).open("rb") as lines,
        ArrowWriter(path=str(directory / _ARROW_FILE), features=_FEATURES) as writer,
    ):
        for encoded in _encoded(lines, chat, counts, tick):
            if not counts.faults:
                counts.add(writer, encoded, limit)
        writer.finalize()
    counts.check(origin, limit)
    facts = {
        "samples": counts.samples,
        "dropped": counts.dropped,
        "tokens": counts.tokens,
        "loss_tokens": counts.loss_tokens,
        "longest": counts.longest,
        "longest_of_all": counts.longest_of_all,
    }
    commit.publish(final, uid=storage.uid, files=commit.sealed(directory.iterdir(), tick), facts=facts)
    return final


def load(directory: Path, storage: Storage) -> Prepared:
    """Open what `prepare` left."""
    manifest = commit.read(directory, uid=storage.uid)
    assert manifest is not None, f"{directory} was complete a moment ago"
    dataset = Dataset.from_file(str(directory / _ARROW_FILE)).with_format("numpy")
    facts = dict(manifest.facts)
    longest_of_all = facts.pop("longest_of_all")
    return Prepared(
        dataset=dataset,
        status=DatasetStatus(**facts, digest=directory.name),
        longest_of_all=longest_of_all,
        lengths=dataset["length"][:],
        loss_tokens=dataset["loss_tokens"][:],
    )


class _Counts:
    def __init__(self) -> None:
        self.samples = self.dropped = self.tokens = self.loss_tokens = self.longest = self.longest_of_all = 0
        self.faults: list[Fault] = []
        self.faulty = 0

    def fault(self, fault: Fault) -> None:
        self.faulty += 1
        if self.faulty <= _FAULTS_SHOWN:
            self.faults.append(fault)

    def add(self, writer: Any, encoded: Encoded, limit: int) -> None:
        """Write a sample, or count it as dropped."""
        length = len(encoded.input_ids)
        self.longest_of_all = max(self.longest_of_all, length)
        if length > limit:
            self.dropped += 1
            return
        loss_tokens = encoded.loss_tokens
        writer.write(
            {
                "input_ids": encoded.input_ids,
                "labels": encoded.labels,
                "sample": self.samples + self.dropped,
                "length": length,
                "loss_tokens": loss_tokens,
            }
        )
        self.samples += 1
        self.tokens += length
        self.loss_tokens += loss_tokens
        self.longest = max(self.longest, length)

    def check(self, origin: str, limit: int) -> None:
        if self.faults:
            for fault in self.faults:
                _log.error("%s", fault)
            shown = "; ".join(map(str, self.faults))
            more = f"; and {self.faulty - len(self.faults)} more" if self.faulty > len(self.faults) else ""
            raise InvalidDataError(
                f"spec.dataset.train: invalid rows in {origin}: {self.faulty} in all: {shown}{more}"
            )
        if not self.samples:
            if self.dropped:
                raise InvalidDataError(
                    f"spec.dataset.train: all {self.dropped} samples of {origin} are longer than {limit} tokens; the "
                    f"longest has {self.longest_of_all}: raise spec.hyperparameters.maxSeqLen"
                )
            raise InvalidDataError(f"spec.dataset.train: {origin} has no samples")


def _encoded(
    lines: Iterator[bytes] | Any, chat: ChatTokenizer, counts: _Counts, tick: Callable[[], None]
) -> Iterator[Encoded]:
    rows = parse(lines)
    while some := list(itertools.islice(rows, _ROWS_AT_A_TIME)):
        rendered = [text for row in some if (text := _rendered(row, chat, counts)) is not None]
        if rendered:
            yield from chat.encode(rendered)
        tick()


def _rendered(row: Row | Fault, chat: ChatTokenizer, counts: _Counts) -> Rendered | None:
    if isinstance(row, Fault):
        counts.fault(row)
        return None
    try:
        return render(row.messages, chat.template)
    except (JinjaError, TemplateError) as error:
        counts.fault(Fault(row.line, "messages", f"the model's chat template refuses them: {error}"))
        return None


def _digest(config: RunConfig, limit: int) -> str:
    """Of everything that decides what is prepared: data, tokenizer, template, settings."""
    digest = hashlib.sha256(f"format {_FORMAT}, at most {limit} tokens".encode())
    model = Path(config.locations.model)
    files = {file for pattern in _TOKENIZER_FILES for file in model.glob(pattern) if file.is_file()}
    for file in [Path(config.locations.train), *sorted(files)]:
        with file.open("rb") as opened:
            digest.update(file.name.encode() + hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()
