"""Whether an answer matches its reference."""

import regex

from finetune_api.evaluation import Generate

# Patterns take microseconds; some would take for ever, and nobody can tell which beforehand.
_SECONDS = 5.0


def problem(generate: Generate, reference: str) -> str | None:
    """Why nothing can be compared with a reference; None if it can."""
    if generate.match == "Exact":
        return None
    try:
        regex.compile(reference)
    except regex.error as error:
        return f"{reference!r:.200} is no regular expression: {error}; mend it, or take match: Exact"
    return None


def matches(generate: Generate, answer: str, reference: str) -> bool:
    """Whether an answer matches. Raises TimeoutError where a regular expression cannot tell in any good time."""
    if generate.match == "Exact":
        return answer.strip() == reference.strip()
    try:
        return regex.search(reference, answer, timeout=_SECONDS) is not None
    except TimeoutError:
        raise TimeoutError(
            f"{reference!r:.200} takes more than {_SECONDS:g} seconds to be looked for in an answer of "
            f"{len(answer)} characters (write it so that there are fewer ways to match the same text)"
        ) from None
