"""What is known about a reason."""

from dataclasses import dataclass
from enum import Enum


class Outlook(Enum):
    """Whether anybody is needed."""

    GOOD = "Nothing is wrong."
    PASSES = "Passes by itself."
    ACT = "Somebody has to do something."


@dataclass(frozen=True)
class Reason:
    """A word that conditions, attempts and events of a job use, explained."""

    word: str
    means: str
    """What has happened, or is going on; a sentence or two."""
    outlook: Outlook = Outlook.GOOD
    remedy: str = ""
    """What to do; empty where nothing is to be done."""
    by_itself: str = ""
    """What happens without anybody; empty where nothing does."""


@dataclass(frozen=True)
class Chapter:
    """Reasons of one kind."""

    title: str
    told: str
    """Where they are found, as a sentence."""
    reasons: tuple[Reason, ...]
