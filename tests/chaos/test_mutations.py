"""Each guard is needed, and its loss is noticed: without it, a known story violates the invariant it is there for."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from chaos import mutations
from chaos.finish import finish
from chaos.steps import Apply, End, Run, Second, Settle, Step, Tell
from chaos.story import Story, ViolationError
from cluster.kube import Kube

BEGUN: list[Step] = [Apply("demo"), Settle(), Run("demo"), Tell("demo", 3)]


@pytest.mark.parametrize(
    ("mutation", "told", "invariant"),
    [
        (
            mutations.attempts_have_random_names,
            [Second(), Apply("demo"), Settle()],
            "one gang at a time",
        ),
        (
            mutations.pods_that_go_are_overlooked,
            [*BEGUN, End("demo", 200), Settle()],
            "one gang at a time",
        ),
        (mutations.deletes_without_uid, [*BEGUN, End("demo", 200), Settle()], "writes are allowed"),
        (mutations.terminal_is_left, [*BEGUN, End("demo", 65), Settle()], "terminal is final"),
        (mutations.status_is_written_for_nothing, [Apply("demo")], "at rest"),
        (mutations.pods_may_do_more, [Apply("demo"), Settle()], "restricted"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_lost_guard_is_noticed(
    mutation: Callable[[], None], told: list[Step], invariant: str, kube: Kube, tmp_path: Path
) -> None:
    found: list[str] = []
    with Story(kube, tmp_path, mutation, grace_seconds=3).telling() as story:
        todo: list[Callable[[], None]] = [*(partial(story.do, step) for step in told), partial(finish, story)]
        for happens in todo:
            try:
                happens()
            except ViolationError as error:
                # Another invariant may have been violated before, on the way to this one.
                found += error.found
            if invariant in {one.split(":")[0] for one in found}:
                return
    pytest.fail(f"nobody has noticed: {found}")
