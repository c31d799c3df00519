"""What lies in a directory of prepared data: samples, and what was found in them."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter, ValidationError

from finetune_api.status import DatasetStatus, Lengths
from finetune_trainer import commit
from finetune_trainer.prepare.arrow import Ids, Samples
from finetune_trainer.prepare.contents import Contents, duplicates
from finetune_trainer.prepare.questions import Question
from finetune_trainer.prepare.split import Split

_STATS = "stats.json"
_CONTENTS = "contents.npy"
_OVERLONG = "overlong.npy"
_QUESTIONS = "questions.json"
_HELD_BACK = "held-back.json"


@dataclass(frozen=True)
class HeldBack:
    """How much of what was prepared, at its end, is not to be trained on."""

    samples: int
    contents: int


@dataclass(frozen=True)
class Findings:
    """What was found beside the samples."""

    contents: Contents
    """Of every sample; of blocks, of every document that they are made of."""
    overlong: Ids
    """Lengths of the samples that were left out because of them, in tokens."""
    questions: Sequence[Question] = ()
    """What is answered, where answers are compared."""
    held_back: HeldBack | None = None
    """None where that is not decided when data are prepared."""


@dataclass(frozen=True)
class Kept:
    """Prepared data, open for reading, with all that was found in them."""

    samples: Samples
    findings: Findings
    status: DatasetStatus

    @classmethod
    def of(cls, directory: Path, status: DatasetStatus) -> Self:
        """Open a directory of prepared data."""
        return cls(Samples(directory), _findings(directory), status)

    @classmethod
    def load(cls, directory: Path) -> Self | None:
        """Open a directory of prepared data; None if it is not a complete one."""
        status = known_status(directory) if commit.read(directory, uid=None) else None
        return cls.of(directory, status) if status else None

    def split(self, split: Split, origin: str) -> tuple[Self, Self]:
        """What is trained on, and what is held back. Raises InvalidDataError where nothing is left for one of them."""
        samples, contents = len(self.samples), self.findings.contents
        if (apart := self.findings.held_back) is not None:
            held_back = np.arange(samples) >= samples - apart.samples
            held_back_contents = np.arange(len(contents)) >= len(contents) - apart.contents
        else:
            held_back = split.held_back(contents, np.ones(samples, np.int64), origin)
            held_back_contents = held_back
        empty = None if self.status.empty is None else 0
        return (
            # What was left out of the data was left out before they were divided.
            self._part(
                ~held_back,
                Findings(contents[~held_back_contents], self.findings.overlong),
                invalid=self.status.invalid,
                empty=self.status.empty,
            ),
            self._part(
                held_back,
                Findings(contents[held_back_contents], np.empty(0, np.int32)),
                invalid=0,
                empty=empty,
            ),
        )

    def _part(
        self, wanted: npt.NDArray[np.bool_], findings: Findings, *, invalid: int, empty: int | None
    ) -> Self:
        samples = self.samples.part(np.flatnonzero(wanted))
        status = described(self.status.digest, samples, findings, invalid=invalid, empty=empty)
        return dataclasses.replace(self, samples=samples, findings=findings, status=status)


def known_status(directory: Path) -> DatasetStatus | None:
    """What was found in the data of a directory; None where there are none."""
    try:
        return DatasetStatus.model_validate_json((directory / _STATS).read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValidationError):
        return None


def keep(directory: Path, status: DatasetStatus, findings: Findings) -> None:
    """Put what was found beside the samples."""
    np.save(directory / _CONTENTS, findings.contents)
    np.save(directory / _OVERLONG, findings.overlong)
    if findings.questions:
        (directory / _QUESTIONS).write_bytes(_ALL_QUESTIONS.dump_json(list(findings.questions)))
    if findings.held_back is not None:
        (directory / _HELD_BACK).write_text(json.dumps(dataclasses.asdict(findings.held_back)))
    (directory / _STATS).write_text(status.model_dump_json(by_alias=True, exclude_none=True, indent=1))


def described(
    digest: str, samples: Samples, findings: Findings, *, invalid: int, empty: int | None
) -> DatasetStatus:
    """What the status says of samples."""
    lengths = samples.lengths
    return DatasetStatus(
        samples=len(samples),
        dropped=len(findings.overlong),
        invalid=invalid,
        empty=empty,
        tokens=int(lengths.sum(dtype=np.int64)),
        loss_tokens=int(samples.loss_tokens.sum(dtype=np.int64)),
        longest=int(lengths.max()),
        lengths=_percentiles(np.concatenate([lengths, findings.overlong])),
        duplicates=duplicates(findings.contents),
        digest=digest,
    )


_ALL_QUESTIONS = TypeAdapter(list[Question])


def _findings(directory: Path) -> Findings:
    questions, held_back = directory / _QUESTIONS, directory / _HELD_BACK
    return Findings(
        contents=np.load(directory / _CONTENTS),
        overlong=np.load(directory / _OVERLONG),
        questions=_ALL_QUESTIONS.validate_json(questions.read_bytes()) if questions.exists() else (),
        held_back=HeldBack(**json.loads(held_back.read_bytes())) if held_back.exists() else None,
    )


def _percentiles(lengths: Ids) -> Lengths:
    """The nearest ranks: lengths that there are."""
    ranks = np.percentile(lengths, [50, 95, 99, 100], method="inverted_cdf")
    p50, p95, p99, longest = (int(length) for length in ranks)
    return Lengths(p50=p50, p95=p95, p99=p99, max=longest)
