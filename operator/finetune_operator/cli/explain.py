"""`finetune explain`: why a job waits or has failed, and what to do."""

import asyncio
import difflib
import sys
import textwrap
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from finetune_api.reasons import REASONS, Outlook, Reason
from finetune_operator.cli.errors import CommandError
from finetune_operator.cli.explaining.explanation import Explanation
from finetune_operator.cli.explaining.explanation import explain as explained
from finetune_operator.cli.options import NamespaceOption
from finetune_operator.cli.output import OutputOption, write


def _reasons(incomplete: str) -> list[str]:
    return [word for word in sorted(REASONS) if word.startswith(incomplete)]


def explain(
    subject: Annotated[
        str,
        typer.Argument(
            metavar="NAME|REASON",
            help="A job on the cluster; or a reason, such as Unschedulable, without one.",
        ),
    ],
    namespace: NamespaceOption = None,
    output: OutputOption = "text",
) -> None:
    """Tell why a job waits or has failed, and what to do.

    It looks at the job, its Jobs, pods, their events and its queue, as far as you may see them, and says what it could
    not see. Of a reason, as conditions, attempts and events have them, it says what it means.

    Exit code: 0 explained, whatever the job has come to, 1 there is no such job or reason, 2 wrong usage.
    """
    # Names of objects have no capitals.
    if subject != subject.lower():
        _show_reason(_known(subject), output)
        return
    explanation = asyncio.run(_of_job(subject, namespace))
    if output != "text":
        write(explanation.document(), output)
    else:
        _show(explanation)


async def _of_job(name: str, namespace: str | None) -> Explanation:
    # The Kubernetes client takes longer to import than the other commands take to run.
    from finetune_operator.cli.explaining.reading import look
    from finetune_operator.cli.surroundings import surroundings

    async with surroundings(namespace) as around:
        return explained(await look(around, name), datetime.now(UTC))


def _known(word: str) -> Reason:
    if word in REASONS:
        return REASONS[word]
    near = difflib.get_close_matches(word, REASONS, n=3)
    raise CommandError(
        f"{word} is no reason of a job" + (f"; did you mean {' or '.join(near)}?" if near else "")
    )


def _show_reason(reason: Reason, output: str) -> None:
    if output == "text":
        _print(
            f"{reason.word}: {reason.means} {reason.outlook.value}",
            [
                ("What to do", [reason.remedy] if reason.remedy else []),
                ("By itself", [reason.by_itself] if reason.by_itself else []),
            ],
        )
        return
    document = {
        "reason": reason.word,
        "means": reason.means,
        "needsAttention": reason.outlook is Outlook.ACT,
        "whatToDo": reason.remedy,
        "byItself": reason.by_itself,
    }
    write(document, "json" if output == "json" else "yaml")


def _show(explanation: Explanation) -> None:
    _print(
        explanation.summary,
        [
            ("Why", [f"{explanation.reason}: {explanation.means}"]),
            ("Seen", list(explanation.evidence)),
            ("What to do", [explanation.remedy or "Nothing."]),
            ("By itself", [explanation.by_itself] if explanation.by_itself else []),
            ("Not seen", list(explanation.hidden)),
        ],
    )


def _print(headline: str, sections: list[tuple[str, list[str]]]) -> None:
    console = Console(highlight=False)
    # In a pipe a sentence is a line.
    width = console.width if console.is_terminal else sys.maxsize
    console.print(Text(_wrapped(headline, width, ""), style="bold"), soft_wrap=True)
    for title, sentences in sections:
        if sentences:
            console.print(Text(f"\n{title}", style="bold"), soft_wrap=True)
        for sentence in sentences:
            console.print(Text(_wrapped(sentence, width, "  ")), soft_wrap=True)


def _wrapped(text: str, width: int, indent: str) -> str:
    return "\n".join(
        textwrap.fill(line, width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
        for line in text.splitlines()
    )
