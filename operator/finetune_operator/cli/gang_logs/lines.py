"""Pure: lines of several pods, in the order of time."""

import heapq
import re
from collections.abc import Iterator, Sequence
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
    """When, if it tells."""
    text: str


def stamped(rank: int, text: str) -> Line:
    """A line as the kubelet tells it: with its time in front."""
    stamp, _, rest = text.partition(" ")
    try:
        return Line(rank, datetime.fromisoformat(stamp), rest)
    except ValueError:
        # The kubelet's own words, of a log that it cannot read.
        return Line(rank, None, text)


def of_file(rank: int, text: str) -> Line:
    """A line as it lies on the volume; those of a traceback, say, have no time."""
    found = _STAMP.match(text)
    time = datetime.fromisoformat(f"{found[1]}.{found[2]}").replace(tzinfo=UTC) if found else None
    return Line(rank, time, text)


def merged(logs: Sequence[Sequence[Line]]) -> Iterator[Line]:
    """All lines in the order of time; those of one pod stay in the order in which it printed them.

    One without a time follows the line before it at once.
    """
    return heapq.merge(*logs, key=lambda line: line.time or _LONG_AGO)
