"""Every reason that conditions, attempts and events of a job may have: what it means, and what to do.

The one place for that: `finetune explain` and docs/troubleshooting.md read it.
"""

from collections.abc import Mapping
from types import MappingProxyType

from finetune_api.reasons import ends, kubernetes, queues, standing, story
from finetune_api.reasons.entry import Chapter, Outlook, Reason

CHAPTERS: tuple[Chapter, ...] = (
    standing.CHAPTER,
    queues.CHAPTER,
    kubernetes.CHAPTER,
    ends.CHAPTER,
    story.CHAPTER,
)
REASONS: Mapping[str, Reason] = MappingProxyType(
    {reason.word: reason for chapter in CHAPTERS for reason in chapter.reasons}
)

__all__ = ["CHAPTERS", "REASONS", "Chapter", "Outlook", "Reason"]
