"""Pure: the upload of a finished job's result (spec.publish), from its Job to what the status says of it.

It never changes what the job came to: the phase stays Succeeded, and of the conditions only Published tells of it. As
everywhere, status.publication has on record what is done, before anything is:

    another upload is asked for than what is on record    → delete the Job of the one before, if there is one
    nothing of that is left                               → write what is asked for to the status
    a try is open, and its Job is missing                 → apply ConfigMap, NetworkPolicy and, last, the Job
    the Job is there                                      → follow it: what is uploaded, what keeps its pod from running
    it succeeded                                          → write what is there now to the status: no Job follows
    it failed                                             → write that to the status, and when it is tried again
    that time has come                                    → delete the failed Job
    nothing is left of that                               → write to the status that a try is open
    spec.suspend is true                                  → delete the Job, judge it first if it failed; make none

Uploads may be repeated without a record: what is there already is not sent again.
"""

from dataclasses import replace
from datetime import timedelta
from typing import Any

from finetune_api import names
from finetune_api.publication import Publication, Published
from finetune_api.publish import Publish
from finetune_api.status import FineTuneJobStatus, Phase
from finetune_operator.lifecycle import single_pod, steps
from finetune_operator.lifecycle.healing import keep_up
from finetune_operator.lifecycle.launch import FIRST_RETRY, about_to_create, in_the_way, look_again
from finetune_operator.lifecycle.outcome import Outcome, Situation
from finetune_operator.objects import workload
from finetune_operator.objects.pods import Manifest
from finetune_operator.objects.workload import Installation
from finetune_operator.observation.observed import GangJob, Subject
from finetune_operator.status import conditions, transitions
from finetune_operator.status.conditions import Told

# Some 18 hours in all: a store that is away overnight is back by then.
MAX_TRIES = 24
FIRST_PAUSE = timedelta(minutes=1)
LAST_PAUSE = timedelta(hours=1)

UPLOADED = "Published"


def is_settled(subject: Subject) -> bool:
    """Whether nothing is left to do: nothing is to be uploaded, it is uploaded, or that was given up."""
    status, job = subject.status, subject.job
    if status.phase is not Phase.SUCCEEDED or job is None:
        return True
    publish, known = job.spec.publish, status.publication
    if publish is None or known is None:
        return publish is None and known is None
    return _is_of(known, publish) and (known.published is not None or _is_given_up(known))


def has_failed(status: FineTuneJobStatus) -> bool:
    """Whether the last try has failed, be it the last of all or not."""
    known = status.publication
    return known is not None and (known.next_try is not None or _is_given_up(known))


def _is_of(known: Publication, publish: Publish) -> bool:
    """Whether what is on record is what is asked for."""
    # Who may write is of no interest any more to what is there.
    return known.target == publish.target if known.published else known.digest == publish.digest


def _is_given_up(known: Publication) -> bool:
    return known.published is None and known.tries >= MAX_TRIES


def follow(situation: Situation, installation: Installation) -> Outcome:
    """What to do about the upload of a job that has succeeded."""
    publish, known = situation.job.spec.publish, situation.status.publication
    upload = situation.observed.job_of(names.PUBLISHING)
    if known is None or publish is None or not _is_of(known, publish):
        if known is not None and _is_left(situation):
            return _wait(situation, known, f"the upload to {known.target} is ending")
        return _forget(situation) if publish is None else _begin(situation, publish)
    if is_settled(situation.subject):
        return Outcome()
    if upload is not None and upload.complete:
        return _succeeded(situation, known, upload)
    if upload is not None and upload.deleting:
        # How it ends says nothing: it was told to.
        upload = None
    to_be_judged = upload is not None and upload.failed and known.next_try is None
    if situation.job.spec.suspend and not to_be_judged:
        return _hold(situation, known)
    if known.next_try is not None:
        return _pause(situation, known, upload)
    manifests = workload.publishing(situation.job, installation)
    return (
        _launch(situation, known, manifests)
        if upload is None
        else _watch(situation, known, upload, manifests)
    )


def _begin(situation: Situation, publish: Publish) -> Outcome:
    known = Publication(target=publish.target, digest=publish.digest)
    # What was cleaned up has something to be cleaned up again.
    return _write(situation, known, _opened(), cleanup_time=None).within(0)


def _forget(situation: Situation) -> Outcome:
    status = situation.status
    if status.publication is None and conditions.find(status.conditions, conditions.PUBLISHED) is None:
        # To make a whole status anew takes longer than all the rest, and nearly every job that is over is one of these.
        return Outcome()
    return _write(situation, None, None)


def _launch(situation: Situation, known: Publication, manifests: tuple[Manifest, ...]) -> Outcome:
    if _is_left(situation):
        return _wait(situation, known, "pods of an earlier upload are still ending")
    hindrance = in_the_way(situation.observed)
    if hindrance is None:
        return replace(_write(situation, known, _opened()), apply=manifests)
    told = Told("Unknown" if hindrance.passes else "False", hindrance.reason, hindrance.message)
    outcome = _write(situation, known, told)
    if hindrance.passes:
        return outcome.within(FIRST_RETRY.total_seconds())
    condition = conditions.find((outcome.status or situation.status).conditions, conditions.PUBLISHED)
    assert condition is not None
    return outcome.within(look_again(condition.last_transition_time, situation.now))


def _watch(
    situation: Situation, known: Publication, upload: GangJob, manifests: tuple[Manifest, ...]
) -> Outcome:
    seen = single_pod.see(situation, steps.PUBLISHING, upload)
    if seen.verdict is None:
        outcome = _write(situation, known, Told("Unknown", seen.reason, seen.message)).within(seen.rest)
        return keep_up(situation, outcome, upload, manifests, nodes=1)
    tries, now = known.tries + 1, situation.now
    pause = min(FIRST_PAUSE * (1 << min(tries - 1, 10)), LAST_PAUSE)
    next_try = now + pause if tries < MAX_TRIES else None
    if next_try is None:
        follows = f"That was try {tries} of {MAX_TRIES}, and the last: a change of spec.publish begins anew"
    else:
        follows = f"Try {tries + 1} of {MAX_TRIES} follows at {next_try:%H:%M:%S} UTC"
    cause = seen.message.rstrip(".")
    failed = known.model_copy(
        update={"tries": tries, "last_try": now, "message": cause[:1024], "next_try": next_try}
    )
    message = f"{cause}. {follows}."
    return _write(situation, failed, Told("False", seen.reason, message)).within(0)


def _succeeded(situation: Situation, known: Publication, upload: GangJob) -> Outcome:
    last_words_first = reversed(single_pod.told(situation, upload))
    published = next(
        (report.published for report in last_words_first if report is not None and report.published), None
    )
    if published is None:
        output = situation.status.output
        size = output.bytes + (output.merged.bytes if output.merged else 0) if output else 0
        published = Published(target=known.target, bytes=size, time=situation.now)
    revision = f" (commit {published.revision})" if published.revision else ""
    message = f"the result is in {published.target}{revision}"
    done = known.model_copy(update={"published": published, "message": None, "next_try": None})
    return _write(situation, done, Told("True", UPLOADED, message))


def _pause(situation: Situation, known: Publication, upload: GangJob | None) -> Outcome:
    """The last try has failed, and that is on record."""
    assert known.next_try is not None
    rest = known.next_try - situation.now
    # Longer it can only be because the clock was set right since.
    if timedelta(0) < rest <= LAST_PAUSE:
        # A pod that hangs, say, would go on; the log of one that has ended is wanted.
        goes_on = upload is not None and not upload.over
        return Outcome(delete=(upload,) if upload is not None and goes_on else ()).within(
            rest.total_seconds()
        )
    if _is_left(situation):
        return Outcome(delete=_strays(situation))
    return _write(situation, known.model_copy(update={"next_try": None}), _opened()).within(0)


def _hold(situation: Situation, known: Publication) -> Outcome:
    """spec.suspend asks for nothing to run, of a finished job too."""
    if _is_left(situation):
        return _wait(situation, known, "the pod that uploads the result is ending")
    words = "spec.suspend is true, so nothing is uploaded; false goes on with it"
    # Who was suspended is not kept waiting.
    held = known.model_copy(update={"next_try": None})
    return _write(situation, held, Told("Unknown", transitions.SUSPENDED, words))


def _wait(situation: Situation, known: Publication, words: str) -> Outcome:
    told = Told("Unknown", "WaitingForPods", words)
    return replace(_write(situation, known, told), delete=_strays(situation))


def _strays(situation: Situation) -> tuple[GangJob, ...]:
    upload = situation.observed.job_of(names.PUBLISHING)
    return () if upload is None or upload.deleting else (upload,)


def _is_left(situation: Situation) -> bool:
    """Whether anything is there of an upload. Those of others of its job stay for their logs."""
    observed = situation.observed
    # Its Job may be gone before its pods; they have its name. No dash follows where that is as long as names may be.
    pods = names.attempt_job_name(situation.subject.name, names.PUBLISHING)
    return observed.job_of(names.PUBLISHING) is not None or any(
        pod.name.startswith(pods) for pod in observed.pods
    )


def _opened() -> Told:
    return Told("Unknown", *about_to_create(names.PUBLISHING))


def _write(situation: Situation, known: Publication | None, told: Told | None, **changes: Any) -> Outcome:
    old, subject = situation.status, situation.subject
    said = conditions.with_published(old.conditions, told, generation=subject.generation, now=situation.now)
    new = FineTuneJobStatus.model_validate(
        old.model_dump() | {"publication": known, "conditions": said} | changes
    )
    return Outcome() if new == old else Outcome(status=new, events=transitions.events(old, new))
