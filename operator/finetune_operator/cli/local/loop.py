"""The operator's loop, for one job on this machine."""

import time
from datetime import UTC, datetime

from finetune_api.spec import FineTuneJob
from finetune_api.status import FineTuneJobStatus
from finetune_operator.cli.display import Display
from finetune_operator.cli.local.interrupt import Interrupt
from finetune_operator.cli.local.machine import Machine
from finetune_operator.lifecycle import publishing
from finetune_operator.lifecycle.reconcile import reconcile
from finetune_operator.objects.workload import Installation
from finetune_operator.observation.observed import Observed, Subject
from finetune_operator.status import progress

# Nobody listens for Reports here, and no image is pulled.
INSTALLATION = Installation(trainer_image="", report_url="", report_ca="")
LOOK_SECONDS = 0.3


def train(job: FineTuneJob, machine: Machine, display: Display, interrupt: Interrupt) -> FineTuneJobStatus:
    """Run the job until it is over, or until it was interrupted and its nodes have ended; returns its status."""
    status = FineTuneJobStatus()
    told = False
    while True:
        now = datetime.now(UTC).replace(microsecond=0)
        if interrupt.signal is not None:
            machine.stop(now, at_once=interrupt.repeated)
            if not told:
                display.say("Stopping", "the nodes save their state and end; Ctrl-C again ends them at once")
                told = True
        found = machine.observe(now)
        outcome = reconcile(_subject(job, status), found, now, INSTALLATION)
        status = outcome.status or status
        over = is_over(job, status)
        left = machine.idle and (over or interrupt.signal is not None)
        # That an interrupted attempt would be started again is true on a cluster, and not here.
        if over or not left:
            display.show(_live(status, found))
        if left:
            return status
        if interrupt.signal is None:
            machine.carry_out(outcome, now)
        if outcome.requeue_after != 0:
            time.sleep(LOOK_SECONDS)


def is_over(job: FineTuneJob, status: FineTuneJobStatus) -> bool:
    """Whether nothing is left to do here. On a cluster, an upload that failed would be tried again later."""
    if status.phase is None or not status.phase.is_terminal:
        return False
    return publishing.is_settled(_subject(job, status)) or publishing.has_failed(status)


def _subject(job: FineTuneJob, status: FineTuneJobStatus) -> Subject:
    metadata = job.metadata
    return Subject(
        namespace=metadata.namespace,
        name=metadata.name,
        uid=metadata.uid,
        generation=1,
        resource_version="",
        deleting=False,
        job=job,
        problems=(),
        status=status,
    )


def _live(status: FineTuneJobStatus, found: Observed) -> FineTuneJobStatus:
    """What to show: Reports come more often than a status is written."""
    received = found.report
    if received is None or status.phase is None or status.phase.is_terminal or not status.attempts:
        return status
    if received.report.attempt != status.attempts[-1].number:
        return status
    return progress.with_report(status, received.report, received.time)
