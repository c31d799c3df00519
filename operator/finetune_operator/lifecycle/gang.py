"""Pure: what a gang is doing, as status."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from finetune_api.report import Report, Stage, Transfer
from finetune_api.status import Attempt, Condition, FineTuneJobStatus, Phase
from finetune_api.units import size
from finetune_operator import kueue
from finetune_operator.lifecycle import deadlines, ends, launch
from finetune_operator.lifecycle.heard import pods_of, posted, received_from, reported
from finetune_operator.lifecycle.outcome import Outcome, Situation, is_mere_progress, write
from finetune_operator.objects import workload
from finetune_operator.observation.observed import GangJob, Pod, Received
from finetune_operator.status import conditions, progress
from finetune_operator.status.conditions import Standing

# How long a pod may wait before somebody asks why.
LONG_WAIT = timedelta(seconds=15)

# What the trainer does, as a phase, a word and a sentence.
STAGES = {
    Stage.STARTING: (Phase.STARTING, "TrainerStarting", "the trainer is starting"),
    Stage.DOWNLOADING: (Phase.PREPARING, "Downloading", "what comes over the network is being downloaded"),
    Stage.PREPARING: (Phase.PREPARING, "Preparing", "the data are being prepared"),
    Stage.LOADING: (Phase.RUNNING, "Loading", "the model is being loaded"),
    Stage.TRAINING: (Phase.RUNNING, "Training", "training"),
    Stage.EVALUATING: (Phase.RUNNING, "Evaluating", "the model is being evaluated"),
    # Not worth a status write of its own: a saved checkpoint is.
    Stage.SAVING: (Phase.RUNNING, "Training", "training"),
    # Told by a pod that is alone: its phase is that of its step.
    Stage.MERGING: (Phase.RUNNING, "Merging", "the adapter is being merged into the model"),
    Stage.PUBLISHING: (Phase.RUNNING, "Publishing", "the result is being uploaded"),
    Stage.FINISHED: (Phase.RUNNING, "Finishing", "the trainer has finished; waiting for its pods to end"),
    Stage.FAILED: (Phase.RUNNING, "Finishing", "the trainer has failed; waiting for its pods to end"),
}
STAGE_REASONS = frozenset(reason for _, reason, _ in STAGES.values())


def stage(report: Report) -> tuple[Phase, str, str]:
    """What a trainer does, as a phase, a word and a sentence."""
    phase, reason, message = STAGES[report.stage]
    if report.stage is Stage.PREPARING and report.preparation is not None:
        message += f": {report.preparation.rows:,} rows"
        # Not every kind of file tells how much of it is left.
        message += f", {percent} %" if (percent := report.preparation.percent) else ""
    if report.stage is Stage.DOWNLOADING and report.transfer is not None:
        message = f"downloading {report.transfer.of}: {transferred(report.transfer)}"
    if report.stage is Stage.PUBLISHING and report.transfer is not None:
        message += f": {transferred(report.transfer)}"
    if report.stage is Stage.LOADING:
        message = progress.decomposing(report.subspaces) or message
    return phase, reason, message


def transferred(transfer: Transfer) -> str:
    """How far a download or an upload has come: '3.2 GiB of 14 GiB, 22 %'."""
    percent = 100 * transfer.bytes // transfer.total_bytes if transfer.total_bytes else 100
    return f"{size(transfer.bytes)} of {size(transfer.total_bytes)}, {percent} %"


def beside(pods: Sequence[Pod]) -> str:
    """What keeps pods from ending whose trainer has ended, as the end of a sentence; empty where nothing does."""
    others = sorted({name for pod in pods for name in pod.beside})
    return f", where containers that are not the operator's go on: {', '.join(others)}" if others else ""


def hindered(pods: Sequence[Pod]) -> Pod | None:
    """Of the pods that do not run, the one whose reason tells most."""
    waiting = [pod for pod in pods if pod.waiting is not None]
    # A reason that comes with an explanation tells more than ContainerCreating.
    return min(waiting, key=lambda pod: (not (pod.waiting and pod.waiting[1]), pod.name), default=None)


def obstacle(job: GangJob, pods: Sequence[Pod]) -> tuple[str, str]:
    """What keeps the pods of a batch/v1 Job from running, as a word and the end of a sentence."""
    pod = hindered(pods)
    if job.hindered is not None and not (pod and pod.waiting and pod.waiting[1]):
        reason, message = job.hindered
        return reason, f"; {job.name}: {reason}: {message}"
    if not pods and job.suspended:
        return "PodsPending", (
            f"; Job {job.name} was suspended, and not by the operator: by Kueue, say, where it manages Jobs that name "
            "no queue (docs/queueing.md)"
        )
    if not pods:
        return "PodsPending", f"; none has been created yet (kubectl describe job {job.name} tells why)"
    if pod is None or pod.waiting is None:
        return "PodsPending", ""
    reason, message = pod.waiting
    return reason, f"; {pod.name}: {reason}{f': {message}' if message else ''}"


def lacks_pods(job: GangJob, pods: Sequence[Pod], wanted: int, now: datetime) -> bool:
    """Whether a Job has had time to get its pods and has not got all: of a quota or a policy, say, its events tell."""
    if job.over or job.deleting or job.waits or job.created is None:
        return False
    return len(pods) < wanted and now - job.created >= LONG_WAIT


def unexplained(pods: Sequence[Pod], now: datetime) -> Pod | None:
    """A pod that has waited for a while without a word why. What holds up its volumes, say, only its events tell.

    As long as pods wait, they are looked at again and again anyhow: see healing.keep_up.
    """
    pod = hindered(pods)
    if pod is None or pod.waiting is None or pod.waiting[1] or pod.created is None:
        return None
    return pod if now - pod.created >= LONG_WAIT else None


def follow(situation: Situation, attempt: Attempt, gang: GangJob | None) -> Outcome:
    """The attempt's Job is there, or was: mirror it, or record its end."""
    now = situation.now
    pods = pods_of(situation, gang)
    received = received_from(situation, attempt, gang)
    status = reported(situation, attempt, gang)
    report = received.report if received is not None else None
    if gang is not None and gang.complete:
        return ends.succeeded(situation, status, pods, report)
    if gang is not None and gang.waits:
        return _in_queue(situation, status, gang)
    if gang is None or gang.failed or any(pod.end is not None for pod in pods):
        return ends.failed(situation, status, pods, report)
    phase, reason, message = _stage(situation, gang, pods, report)
    deadline = deadlines.of_gang(situation, attempt, gang, pods, received)
    rest = deadline.rest(now)
    if rest <= 0:
        first = hindered(pods)
        return ends.concluded(
            situation, status, deadline.verdict(message, node=first.node if first is not None else None)
        )
    if (wait := _until_its_end(situation, attempt, gang, pods, received)) is not None:
        return Outcome(requeue_after=min(wait, rest))
    status = status.model_copy(update={"phase": phase})
    outcome = write(situation.subject, status, Standing.UNDERWAY, reason, message, now).within(rest)
    young = LONG_WAIT - (now - attempt.start_time)
    return outcome.within(young.total_seconds()) if reason == launch.CREATING else outcome


def _until_its_end(
    situation: Situation, attempt: Attempt, gang: GangJob, pods: Sequence[Pod], received: Received | None
) -> float | None:
    """Seconds for which the end of a gang whose trainer has finished is waited for, so that one write tells both.

    An operator that dies meanwhile loses nothing: pods that ended well keep their last words, and what was POSTed is
    waited with only where it is mere progress.
    """
    over = [pod.finished for pod in pods if pod.finished is not None]
    if len(over) < situation.job.spec.resources.nodes:
        over = []
    if received is not None and received.report.stage in (Stage.FINISHED, Stage.FAILED):
        over.append(received.time)
    if not over or not is_mere_progress(situation.status, posted(situation, attempt, gang)):
        return None
    return ends.to_come(max(over), situation.now)


def _in_queue(situation: Situation, status: FineTuneJobStatus, gang: GangJob) -> Outcome:
    """The gang has no pods, or none that may stay: Kueue has not let it go on, or has taken that back."""
    now = situation.now
    reason, message = situation.observed.wait or kueue.wait(None, str(gang.queue), gang.priority)
    status = kueue.waits(status, str(gang.queue), now)
    status = status.model_copy(update={"progress": progress.without_forecast(status.progress)})
    outcome = write(situation.subject, status, Standing.UNDERWAY, reason, message, now)
    # That it may go on is an event of its Job; why it may not is told by none that is watched.
    since = status.queue.waiting_since if status.queue is not None else None
    return outcome.within(launch.look_again(since or now, now))


def _stage(
    situation: Situation, gang: GangJob, pods: Sequence[Pod], report: Report | None
) -> tuple[Phase, str, str]:
    status, nodes = situation.status, situation.job.spec.resources.nodes
    running = sum(pod.running for pod in pods)
    if status.phase in deadlines.GANG_UP and (running < nodes or report is None):
        # Once up, a gang is up until its Job says how it ended; after a restart of the operator the next Report
        # is yet to come.
        current = conditions.find(status.conditions, conditions.PROGRESSING)
        if current is None or current.status != "True":
            return status.phase, "TrainerRunning", "waiting for the trainer's next report"
        return status.phase, current.reason, current.message
    if report is None and not gang.deleting and (told := _as_usual(situation, pods)) is not None:
        return Phase.STARTING, told.reason, told.message
    if running < nodes:
        reason, words = obstacle(gang, pods)
        if reason == "Unschedulable" and (avoided := workload.avoided(status.attempts)):
            words += f"; nodes that are avoided after GPU errors: {', '.join(avoided)}"
        return Phase.STARTING, reason, f"{running} of {nodes} pods run{words}"
    if report is None:
        message = f"all {nodes} pods run; waiting for the trainer's first report"
        return Phase.STARTING, "WaitingForReport", message
    phase, reason, message = stage(report)
    return phase, reason, message + beside(pods)


def _as_usual(situation: Situation, pods: Sequence[Pod]) -> Condition | None:
    """What is told of a start already, as long as it takes no longer than starts do and nobody has more to say.

    By the attempt's own time: a Job that somebody deletes as soon as it is there is not made again and again unnoticed.
    """
    status, first = situation.status, hindered(pods)
    told = conditions.find(status.conditions, conditions.PROGRESSING)
    if told is None or told.reason != launch.CREATING or told.status != "True":
        return None
    explained = first is not None and first.waiting is not None and first.waiting[1]
    return None if explained or situation.now - status.attempts[-1].start_time >= LONG_WAIT else told
