"""How a story ends: every job is brought to its end, and compared with one that has lived in peace."""

import time
from collections.abc import Callable
from functools import partial

from chaos import ends, invariants, steps
from chaos.history import KINDS
from chaos.kubelet import is_preparing
from chaos.story import PATIENCE_SECONDS, Story, ViolationError, is_over, whatever_is_gone
from cluster.kube import FINETUNEJOBS, JOBS, Wire, eventually


def finish(story: Story) -> None:
    """Bring every job to its end, and see that it stands as one that has lived in peace; raises ViolationError."""
    story.rest()
    for wire in story.namespace.all(FINETUNEJOBS):
        name, inline = wire["metadata"]["name"], wire["spec"]["dataset"].get("prepare") == "Inline"
        if wire["status"]["phase"] == "Suspended":
            _suspend_another(story, f"paused-{name}", wire["status"], inline=inline)
            _come_to_be_alike(story, name, f"paused-{name}", partial(_how_suspended, story))
        phase = _bring_to_its_end(story, name)
        code = ends.fatal_code(story.namespace.job(name))
        # Whoever has no restart left got there on a way of his own.
        if phase == "Succeeded" or code is not None:
            story.apply(steps.Apply(f"peaceful-{name}", inline))
            _bring_to_its_end(story, f"peaceful-{name}", code or 0)
            _come_to_be_alike(story, name, f"peaceful-{name}", partial(_how_ended, story, name))
    story.rest()
    _write_no_more(story)


# Side by side


def _come_to_be_alike(story: Story, name: str, other: str, how: Callable[[str], Wire]) -> None:
    def violated() -> list[str]:
        stands, wanted = how(name), how(other)
        return [] if stands == wanted else [f"same end: {name} stands as {stands}, in peace as {wanted}"]

    story.come_to(violated)


def _how_ended(story: Story, about: str, name: str) -> Wire:
    """How a job has ended, apart from what the story has taken from the job that it is `about`."""
    taken = story.taken.get(about, set())
    return ends.over(story.namespace.job(name), _children(story, name), taken)


def _how_suspended(story: Story, name: str) -> Wire:
    return ends.suspended(story.namespace.job(name), _children(story, name))


def _children(story: Story, job: str) -> list[Wire]:
    """What is there of it, besides pods; lists do not say of what kind their items are."""
    return [
        {"kind": kind, **wire}
        for kind in invariants.OWNED
        for wire in story.belongings(KINDS[kind], job)
        if "deletionTimestamp" not in wire["metadata"]
    ]


# Those that live in peace, and what is left of the others' lives


def _suspend_another(story: Story, name: str, like: Wire, *, inline: bool) -> None:
    """Another job, suspended as soon as it has come where this one was: not begun, preparing, or training."""
    begun = "startTime" in like
    story.apply(steps.Apply(name, inline, suspend=not begun))

    def trains() -> bool:
        alive = story.kubelet.alive(name)
        return bool(alive) and not is_preparing(alive)

    if like.get("attempts"):
        _bring_on(story, name, trains)
    elif begun:
        eventually(lambda: story.kubelet.alive(name), seconds=PATIENCE_SECONDS)
    if begun:
        story.namespace.patch(FINETUNEJOBS, name, {"spec": {"suspend": True}})
    story.namespace.in_phase("Suspended", name, seconds=PATIENCE_SECONDS)


def _bring_to_its_end(story: Story, name: str, code: int = 0) -> str:
    """Have its preparation succeed, and its gang end with this code."""
    story.namespace.patch(FINETUNEJOBS, name, {"spec": {"suspend": False}})
    _bring_on(story, name, lambda: _phase(story, name) in invariants.OVER, code)
    return str(_phase(story, name))


def _bring_on(story: Story, name: str, reached: Callable[[], bool], code: int | None = None) -> None:
    """Until this is so, end the pods that are there: those that prepare well, gangs with this code, if with any."""

    def done() -> bool:
        story.keep_up()
        if reached():
            return True
        newest = [j for j in story.belongings(JOBS, name) if "deletionTimestamp" not in j["metadata"]]
        wanted = sum(j["spec"].get("parallelism", 1) for j in newest if not is_over(j))
        alive = story.kubelet.alive(name)
        how = 0 if is_preparing(alive) else code
        if how is not None and 0 < wanted == len(alive):
            with whatever_is_gone():
                story.kubelet.end(name, how)
        return False

    eventually(done, seconds=PATIENCE_SECONDS)


def _phase(story: Story, name: str) -> str | None:
    phase: str | None = story.namespace.job(name).get("status", {}).get("phase")
    return phase


def _write_no_more(story: Story) -> None:
    """See that nobody writes until the patrol has come by twice; raises ViolationError.

    An operator that had to wait for the processor may have had a last word to say: once, and not twice.
    """
    if _written_meanwhile(story) and (violated := _written_meanwhile(story)):
        raise ViolationError(violated)


def _written_meanwhile(story: Story) -> list[str]:
    """What is written before the patrol has come by twice, as violations."""
    story.keep_up()
    since, proxy = time.monotonic(), story.proxy

    def come_by() -> bool:
        rounds = [r for r in list(proxy.requests) if r.asked.is_list and r.asked.resource == "pods"]
        return sum(r.asked.time > since and "limit" in r.asked.query for r in rounds) > 2

    # The slower lists are, the rarer they are.
    eventually(come_by, seconds=2 * PATIENCE_SECONDS)
    return invariants.writes_stop(proxy.requests, since)
