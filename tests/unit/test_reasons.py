"""The knowledge about reasons: none that a job can have is without an entry."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import finetune_operator
import generate_troubleshooting
from finetune_api import failure
from finetune_api.failure import CAUSES, Cause
from finetune_api.reasons import CHAPTERS, REASONS, Outlook
from finetune_operator.lifecycle import gang
from finetune_operator.status import transitions

# Words in the operator's modules that look like reasons and are none: kinds of objects and values of Kubernetes' API,
# types of conditions, headers; and the kubelet's words for an end that has a reason of its own here.
_OTHERS = """
Accept Allow Authorization Background Bearer BearerToken Complete ConfigMap ContainerCannotRun
ContainerStatusUnknown Coscheduling DisruptionTarget Event FailureTarget FallbackToLogsOnError False
Foreground Ingress Inline NetworkPolicy None Normal Outcome PodGroup PodScheduled Progressing Ready
Reconciling Secrets Service Settings Stalled True Unknown Volcano Warning
"""


def words(path: Path) -> Iterator[str]:
    """Texts in a module that look like reasons: one word in camel case. Those in a dict are some manifest's."""
    tree = ast.parse(path.read_text())
    of_manifests = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.Dict)
        for part in (*node.keys, *node.values)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in of_manifests:
            yield from re.findall(r"^(?=.{4})(?:[A-Z][a-z]+)+$", node.value)


def modules() -> Iterator[Path]:
    """Those that decide and tell; the command and the page only show what these have told."""
    root = Path(finetune_operator.__file__).parent
    for path in sorted(root.rglob("*.py")):
        if path.relative_to(root).parts[0] not in ("cli", "page"):
            yield path


@pytest.mark.parametrize("module", list(modules()), ids=lambda path: path.stem)
def test_every_word_that_the_operator_uses_as_a_reason_has_an_entry(module: Path) -> None:
    unknown = {word for word in words(module) if word not in REASONS} - set(_OTHERS.split())
    assert not unknown, (
        f"give these an entry in finetune_api.reasons, or have _OTHERS say that they are none: {unknown}"
    )


def test_every_way_in_which_an_attempt_can_end_has_an_entry_with_the_same_advice() -> None:
    causes = [*CAUSES.values(), *(found for found in vars(failure).values() if isinstance(found, Cause))]
    for cause in causes:
        entry = REASONS[cause.reason]
        assert cause.advice in entry.remedy
        assert entry.outlook is not Outlook.GOOD
    told = (*gang.STAGE_REASONS, transitions.NAME_CONFLICT, transitions.REFUSED, transitions.STUCK)
    assert set(told) <= set(REASONS)


def test_a_reason_has_one_entry_and_who_is_needed_is_told_what_to_do() -> None:
    counted = Counter(reason.word for chapter in CHAPTERS for reason in chapter.reasons)
    assert counted == Counter(set(counted))
    for reason in REASONS.values():
        assert reason.outlook is not Outlook.ACT or reason.remedy, reason.word
        assert reason.outlook is not Outlook.PASSES or reason.by_itself, reason.word


def test_the_page_is_what_the_entries_say() -> None:
    target = generate_troubleshooting.TARGET
    assert target.read_text() == generate_troubleshooting.rendered(), f"{target} is stale: run `make docs`"
