"""Whether an answer matches its reference."""

import regex

from finetune_api.evaluation import Generate

# Patterns take microseconds; some would take for ever, and nobody can tell which beforehand.
_SECONDS = 5.0

_END_OF_THOUGHTS = "</think>"


def problem(generate: Generate, reference: str) -> str | None:
    """Why nothing can be compared with a reference; None if it can."""
    if generate.match == "Exact":
        return None
    try:
        regex.compile(reference)
    except regex.error as error:
        return f"{reference!r:.200} is no regular expression: {error}; mend it, or take match: Exact"
    return None


def without_thoughts(answer: str, reference: str) -> str:
    """What of an answer is compared with a reference: what comes after its thoughts, unless the reference has some.

    Models whose templates put a block of thoughts before every answer write one, if only an empty one.
    """
    # A regular expression may write it as <\/think\s*>, say.
    if _END_OF_THOUGHTS not in answer or _END_OF_THOUGHTS[:-1] in reference.replace("\\", ""):
        return answer
    return answer.rpartition(_END_OF_THOUGHTS)[2].strip()


def matches(generate: Generate, answer: str, reference: str) -> bool:
    """Whether an answer matches. Raises TimeoutError where a regular expression cannot tell in any good time."""
    answer = without_thoughts(answer, reference)
    if generate.match == "Exact":
        return answer.strip() == reference.strip()
    try:
        return regex.search(reference, answer, timeout=_SECONDS) is not None
    except TimeoutError:
        raise TimeoutError(
            f"{reference!r:.200} takes more than {_SECONDS:g} seconds to be looked for in an answer of "
            f"{len(answer)} characters (write it so that there are fewer ways to match the same text)"
        ) from None
