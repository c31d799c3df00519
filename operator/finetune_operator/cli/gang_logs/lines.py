"""Pure: lines of several pods, in the order of time."""

import heapq
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

# As the trainer's own lines begin.
_STAMP = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),(\d{3}) ")
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Line:
    """Something that a pod printed."""

    rank: int
    """Its number in the gang; 0 for one that is alone."""
    time: datetime | None
    """When; None for what came before the first line that tells."""
    text: str


def stamped(rank: int, text: str) -> Line:
    """A line as the kubelet tells it: with its time in front."""
    stamp, _, rest = text.partition(" ")
    try:
        return Line(rank, datetime.fromisoformat(stamp), rest)
    except ValueError:
        # The kubelet's own words, of a log that it cannot read.
        return Line(rank, None, text)


def of_file(rank: int, texts: Iterable[str]) -> Iterator[Line]:
    """Lines as they lie on the volume; one without a time, such as those of a traceback, is as old as that before."""
    time: datetime | None = None
    for text in texts:
        if found := _STAMP.match(text):
            time = datetime.fromisoformat(f"{found[1]}.{found[2]}").replace(tzinfo=UTC)
        yield Line(rank, time, text)


def merged(logs: Sequence[Sequence[Line]]) -> Iterator[Line]:
    """All lines in the order of time; those of one pod stay in the order in which it printed them."""
    return heapq.merge(*map(_rising, logs), key=lambda line: line.time or _LONG_AGO)


def _rising(log: Sequence[Line]) -> Iterator[Line]:
    # A clock that was set back must not mix up what one pod said.
    newest = _LONG_AGO
    for line in log:
        newest = max(newest, line.time or _LONG_AGO)
        yield Line(line.rank, newest, line.text)
