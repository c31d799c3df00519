"""What holds for every history of a FineTuneJob, whatever befalls its pods, its Reports and the operator itself."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from finetune_api import names
from finetune_api.status import Attempt, FineTuneJobStatus, Phase
from finetune_operator.lifecycle import cleanup, publishing
from finetune_operator.lifecycle.outcome import Outcome
from finetune_operator.status import conditions
from world import (
    ADAPTER,
    ALONE,
    DATASET,
    INLINE,
    MERGES,
    OUTPUT,
    PUBLISH,
    World,
    checkpoint,
    found,
    merged,
    merging,
    published,
    report,
)
from world import publishing as uploading

MAX_RESTARTS = 2
MAX_DISRUPTIONS = 3
TIMES_TO_LIVE = st.sampled_from([None, 0, 30])
TARGETS = st.sampled_from([None, PUBLISH["publish"], {"objectStore": {"uri": "gs://elsewhere/demo"}}])
EXIT_CODES = st.sampled_from([1, 65, 71, 137, 143, 200, 201, 42])


class Watched(World):
    """A world in which every decision is looked at."""

    @property
    def kept(self) -> set[str]:
        """Jobs that are over and stay: none of their pods runs."""
        trained = {self.status.attempts[-1].number} if _trained(self.status) else set()
        return {
            job.uid
            for job in self.jobs.values()
            if (job.over and job.attempt in ALONE) or (job.complete and job.attempt in trained)
        }

    def decide(self) -> Outcome:
        outcome, status = super().decide(), self.status
        due = cleanup.is_due(self.subject, self.now)
        for job in outcome.delete:
            if job.attempt == names.PUBLISHING and not due:
                assert self.spec["suspend"] or not self.try_is_open, "the verdict comes first"
                continue
            assert due or job.uid not in self.kept, "its log is wanted, and it is in nobody's way"
            verdicts = {a.number for a in status.attempts if a.end_time is not None}
            if status.phase is Phase.FAILED or self.spec["suspend"] or due:
                verdicts |= set(ALONE)
            assert job.attempt in verdicts, "the evidence is deleted before the verdict is on record"
        if status.phase is Phase.SUCCEEDED:
            assert due or {job.attempt for job in outcome.delete} <= {names.PUBLISHING}
        assert status.phase in (Phase.SUCCEEDED, Phase.FAILED) or not outcome.remove
        if outcome.apply:
            assert status.start_time is not None, "something is made while the spec may still change"
            assert not self.spec["suspend"], "something is made for a job that is to be suspended"
            made = outcome.apply[-1]["metadata"]
            assert made["name"] not in self.jobs, "it is still going"
            number = names.labelled_attempt(made["labels"][names.LABEL_ATTEMPT])
            if number == names.PUBLISHING:
                assert status.phase is Phase.SUCCEEDED
                assert self.try_is_open, "an upload starts without being on record"
            else:
                assert number == _following(status), "a gang starts without its attempt on record"
        return outcome

    @property
    def try_is_open(self) -> bool:
        """Whether it is on record that what the spec wants uploaded is about to be, or is being."""
        job, known = self.subject.job, self.status.publication
        if (
            job is None
            or job.spec.publish is None
            or known is None
            or known.digest != job.spec.publish.digest
        ):
            return False
        return known.next_try is None and known.published is None and known.tries < publishing.MAX_TRIES


def _following(status: FineTuneJobStatus) -> int | None:
    """Whose objects may be made."""
    if not status.attempts:
        return names.PREPARATION
    if _trained(status):
        return names.MERGING
    newest = status.attempts[-1]
    return newest.number if newest.end_time is None else None


class Histories(RuleBasedStateMachine):
    """The operator takes turns, and may die after any write; meanwhile the cluster does what it likes."""

    @initialize(
        inline=st.booleans(),
        suspend=st.booleans(),
        lives=TIMES_TO_LIVE,
        active=st.sampled_from([None, 600, 20000]),
        merges=st.booleans(),
        publish=TARGETS,
        queued=st.booleans(),
    )
    def submit(
        self,
        inline: bool,
        suspend: bool,
        lives: int | None,
        active: int | None,
        merges: bool,
        publish: dict[str, Any] | None,
        queued: bool,
    ) -> None:
        policy = {
            "maxRestarts": MAX_RESTARTS,
            "maxDisruptions": MAX_DISRUPTIONS,
            "activeDeadlineSeconds": active,
        }
        spec = {"failurePolicy": policy, "suspend": suspend, "ttlSecondsAfterFinished": lives}
        spec["publish"] = publish
        spec["scheduling"] = {"queueName": "team"} if queued else {}
        spec |= ({"dataset": INLINE} if inline else {}) | (MERGES if merges else {})
        self.world = Watched(spec=spec)
        self.inline = inline
        self.merges = merges
        self.sequence = 0
        self.prepared = False
        self.told_output = False
        self.uploaded: set[str] = set()
        self.settled: FineTuneJobStatus | None = None
        self.ended: dict[int, Attempt] = {}
        self.newest_state = 0

    # The operator

    @rule(crash_after=st.none() | st.integers(0, 6))
    def reconcile(self, crash_after: int | None) -> None:
        self.world.turn(crash_after=crash_after)

    @rule()
    def two_operators_do_the_same(self) -> None:
        """The second one's status is refused by the API server, for it was decided on an outdated one."""
        outcome = self.world.turn()
        before = dict(self.world.jobs), dict(self.world.pods), dict(self.world.others)
        self.world.carry_out(replace(outcome, status=None, events=()))
        assert (self.world.jobs, self.world.pods, self.world.others) == before

    @rule()
    def restart_of_the_operator(self) -> None:
        self.world.restart_operator()

    @rule(seconds=st.integers(1, 60))
    def wait(self, seconds: int) -> None:
        self.world.now += timedelta(seconds=seconds)

    @rule()
    def nothing_happens_until_it_is_time_to_look_again(self) -> None:
        """What is waited for may be a deadline."""
        self.world.now += timedelta(seconds=self.world.decide().requeue_after or 0)

    # The cluster

    @rule()
    def collect_garbage(self) -> None:
        self.world.collect()

    @precondition(lambda self: self.world.current is not None and self.world.current.waits)
    @rule()
    def the_queue_lets_it_start(self) -> None:
        self.world.admit()

    @precondition(lambda self: self._runs_by_leave_of_a_queue())
    @rule(ended=st.booleans())
    def the_queue_preempts_it(self, ended: bool) -> None:
        self.world.preempt()
        if ended:
            for index in self._alive():
                self.world.fail_pod(index, 143)

    def _runs_by_leave_of_a_queue(self) -> bool:
        job = self.world.current
        return job is not None and job.queue is not None and not (job.waits or job.over or job.deleting)

    @precondition(lambda self: self.world.pods)
    @rule()
    def pods_run(self) -> None:
        self.world.run_pods()

    def _alive(self) -> list[int]:
        """Ranks of the gang that run, or could."""
        pods = self.world.current_pods
        return [pod.index for pod in pods if pod.end is None and pod.index is not None and not pod.finished]

    def _is_at(self, step: int) -> bool:
        """Whether a pod that takes this step runs, or could."""
        job = self.world.current
        if job is None or job.attempt != step or job.over:
            return False
        return any(pod.end is None for pod in self.world.current_pods)

    def _prepares(self) -> bool:
        return self._is_at(names.PREPARATION)

    def _merges(self) -> bool:
        return self._is_at(names.MERGING)

    def _uploads(self) -> bool:
        return self._is_at(names.PUBLISHING)

    @precondition(lambda self: self._prepares() or self._merges() or self._uploads())
    @rule(code=EXIT_CODES, disrupted=st.booleans(), killed=st.booleans(), last_try=st.booleans())
    def single_pod_fails(self, code: int, disrupted: bool, killed: bool, last_try: bool) -> None:
        given_up = True if last_try and not disrupted and code != 143 else None
        self.world.fail_single_pod(
            code, given_up=given_up, oom_killed=killed, disruption="drained" if disrupted else None
        )

    @precondition(lambda self: self._prepares())
    @rule(told=st.booleans())
    def preparation_succeeds(self, told: bool) -> None:
        self.sequence += 1
        self.world.succeed(found(self.sequence) if told else None)

    @precondition(lambda self: self._prepares())
    @rule(finished=st.booleans())
    def preparation_reports(self, finished: bool) -> None:
        self.sequence += 1
        self.world.post(found(self.sequence) if finished else report(0, self.sequence, None, plan=None))

    @precondition(lambda self: self._merges())
    @rule(told=st.booleans())
    def merging_succeeds(self, told: bool) -> None:
        self.sequence += 1
        self.world.succeed(merged(self.sequence) if told else None)

    @precondition(lambda self: self._merges())
    @rule(finished=st.booleans())
    def merging_reports(self, finished: bool) -> None:
        self.sequence += 1
        self.world.post(merged(self.sequence) if finished else merging(self.sequence))

    @precondition(lambda self: self._uploads())
    @rule(told=st.booleans())
    def upload_succeeds(self, told: bool) -> None:
        self.sequence += 1
        publication = self.world.status.publication
        assert publication is not None
        self.uploaded.add(publication.target)
        self.world.succeed(published(publication.target, self.sequence) if told else None)

    @precondition(lambda self: self._uploads())
    @rule()
    def upload_reports(self) -> None:
        self.sequence += 1
        self.world.post(uploading(self.sequence))

    @precondition(lambda self: self._alive())
    @rule(data=st.data(), code=EXIT_CODES, disrupted=st.booleans(), killed=st.booleans(), told=st.booleans())
    def pod_fails(self, data: st.DataObject, code: int, disrupted: bool, killed: bool, told: bool) -> None:
        index = data.draw(st.sampled_from(self._alive()))
        last = None
        if told:
            self.sequence += 1
            last = report(self.world.status.attempts[-1].number, self.sequence, step=self.sequence)
        self.world.fail_pod(
            index,
            code,
            last_report=last,
            oom_killed=killed,
            disruption="drained" if disrupted else None,
        )
        gang = self.world.current
        assert gang is not None
        self.world.jobs[gang.name] = replace(gang, failed=True)

    @precondition(lambda self: self.world.pods)
    @rule(data=st.data())
    def pod_vanishes(self, data: st.DataObject) -> None:
        pod = self.world.pods.pop(data.draw(st.sampled_from(sorted(self.world.pods))))
        for name, job in self.world.jobs.items():
            if job.uid == pod.job_uid and job.attempt not in ALONE and not job.complete:
                self.world.jobs[name] = replace(job, failed=True)

    @precondition(lambda self: self.world.jobs and not self.world.pods)
    @rule()
    def somebody_deletes_the_jobs(self) -> None:
        self.world.jobs.clear()

    @precondition(lambda self: self.world.jobs)
    @rule(data=st.data())
    def somebody_asks_a_job_to_go(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.world.jobs)))
        self.world.jobs[name] = replace(self.world.jobs[name], deleting=True)

    @precondition(lambda self: len(self._alive()) == 2)
    @rule(told=st.booleans())
    def pods_succeed(self, told: bool) -> None:
        self.sequence += 1
        number = self.world.status.attempts[-1].number
        output = ADAPTER if self.merges else OUTPUT
        last = report(number, self.sequence, step=36, output=output, checkpoints=[checkpoint(36)])
        self.world.succeed(last if told else None)

    @precondition(lambda self: self.world.current is not None and self.world.current.attempt > 0)
    @rule(step=st.none() | st.integers(0, 36), kind=st.sampled_from(["weights", "resume", "fullState"]))
    def report_arrives(self, step: int | None, kind: str) -> None:
        self.sequence += 1
        saved = [checkpoint(step, kind)] if step and step % 6 == 0 else []
        gang = self.world.current
        assert gang is not None
        told = {"checkpoints": saved, "dataset": DATASET, "resumed_from_step": 0 if step else None}
        self.world.post(report(gang.attempt, self.sequence, step, **told))

    @rule()
    def all_goes_well_until_it_trains(self) -> None:
        """Which takes so many steps that chance alone hardly ever comes there, and less often twice."""
        self.world.settle(turns=20)
        if self._prepares():
            self.preparation_succeeds(told=True)
            self.prepared = True
            self.world.settle()
        if self.world.current is not None and self.world.current.waits:
            self.world.admit()
            self.world.turn()
        if self._alive():
            self.world.run_pods()
            self.report_arrives(step=self.sequence % 36, kind="weights")
            self.world.turn()

    @rule()
    def all_goes_well_until_it_merges(self) -> None:
        self.all_goes_well_until_it_trains()
        if self.merges and len(self._alive()) == 2:
            self.pods_succeed(told=True)
            self.world.settle()

    @rule()
    def all_goes_well_until_it_uploads(self) -> None:
        self.all_goes_well_until_it_merges()
        if self._merges():
            self.merging_succeeds(told=True)
        elif not self.merges and len(self._alive()) == 2:
            self.pods_succeed(told=True)
        self.world.settle(turns=20)

    @rule(publish=TARGETS)
    def user_wants_it_elsewhere(self, publish: dict[str, Any] | None) -> None:
        self.world.edit(publish=publish)

    @rule()
    def user_edits_what_is_free(self) -> None:
        self.world.edit()

    @rule()
    def user_suspends_or_resumes(self) -> None:
        self.world.edit(suspend=not self.world.spec["suspend"])

    @rule(lives=TIMES_TO_LIVE)
    def user_changes_the_time_to_live(self, lives: int | None) -> None:
        self.world.edit(ttlSecondsAfterFinished=lives)

    # What always holds

    @invariant()
    def at_most_one_gang(self) -> None:
        kept = self.world.kept
        assert len([job for job in self.world.jobs.values() if job.uid not in kept]) <= 1
        assert len({pod.job_uid for pod in self.world.pods.values()} - kept) <= 1

    @invariant()
    def every_gang_is_on_record(self) -> None:
        numbers = [attempt.number for attempt in self.world.status.attempts]
        assert numbers == list(range(1, len(numbers) + 1))
        beside = {names.PREPARATION} | ({names.MERGING} if _trained(self.world.status) else set())
        beside |= {names.PUBLISHING} if self.world.status.phase is Phase.SUCCEEDED else set()
        assert {job.attempt for job in self.world.jobs.values()} <= {*beside, *numbers}

    @invariant()
    def what_is_trained_is_never_trained_again(self) -> None:
        status = self.world.status
        if _trained(status):
            assert status.phase is not Phase.RESTARTING
            assert [a.reason for a in status.attempts].count("Completed") == 1
            assert (status.phase in (Phase.MERGING, Phase.SUSPENDED)) <= self.merges
        if status.phase is Phase.MERGING:
            assert _trained(status)

    @invariant()
    def the_adapter_is_never_lost_from_the_status(self) -> None:
        output = self.world.status.output
        self.told_output = self.told_output or output is not None
        assert (output is not None) == self.told_output
        if self.world.status.phase is Phase.FAILED and _trained(self.world.status):
            stalled = conditions.find(self.world.status.conditions, conditions.STALLED)
            assert stalled is not None
            assert "The adapter is untouched, in demo/output on claim runs." in stalled.message

    @invariant()
    def no_gang_exists_before_the_data_are_prepared(self) -> None:
        if self.world.gangs and not self.inline:
            assert self.prepared, "a gang was made, and no preparation ever succeeded"
        self.prepared = self.prepared or any(job.complete for job in self.world.jobs.values())

    @invariant()
    def an_end_is_final(self) -> None:
        for attempt in self.world.status.attempts:
            known = self.ended.get(attempt.number)
            if known is not None and known.reason == "Suspended":
                # Its pods save the state, and may yet make the last step of all.
                attempt = attempt if attempt.reason == "Completed" else _but_for_steps(attempt, known)
                known = None if attempt.reason == "Completed" else known
            if known is not None:
                # How far it had come may be learnt of later still.
                assert (attempt.last_step or 0) >= (known.last_step or 0)
                assert attempt.model_copy(update={"last_step": known.last_step}) == known
            elif attempt.end_time is not None:
                self.ended[attempt.number] = attempt

    @invariant()
    def who_waits_in_a_queue_waits_since_some_time(self) -> None:
        status = self.world.status
        waits = status.queue is not None and status.queue.waiting_since is not None
        assert waits == (status.phase is Phase.QUEUED)

    @invariant()
    def a_suspended_job_holds_nothing(self) -> None:
        if self.world.status.phase is Phase.SUSPENDED:
            kept = self.world.kept
            assert {pod.job_uid for pod in self.world.pods.values()} <= kept
            assert {job.uid for job in self.world.jobs.values()} <= kept

    @invariant()
    def terminal_phases_are_absorbing(self) -> None:
        cleared = {"observed_generation": 0, "conditions": [], "cleanup_time": None, "publication": None}
        status = self.world.status.model_copy(update=cleared)
        if self.settled is not None:
            assert status == self.settled
        elif self.world.status.phase in (Phase.SUCCEEDED, Phase.FAILED):
            self.settled = status

    @invariant()
    def what_is_cleaned_up_is_gone(self) -> None:
        if self.world.status.cleanup_time is not None:
            assert (self.world.jobs, self.world.pods, self.world.others) == ({}, {}, {})

    @invariant()
    def the_budgets_are_kept(self) -> None:
        status = self.world.status
        assert (status.restarts or 0) == sum(bool(attempt.counted) for attempt in status.attempts)
        since = status.since_checkpoint
        if since is not None:
            assert 0 <= since.restarts <= min(MAX_RESTARTS, status.restarts or 0)
            assert 0 <= since.disruptions <= min(MAX_DISRUPTIONS, len(status.attempts))
            assert since.step >= self.newest_state, "a budget is filled up by what is no newer state"
            self.newest_state = since.step

    @invariant()
    def somebody_comes_back(self) -> None:
        """Where nothing is done, something is waited for that will be noticed: an event of the watches, or a time."""
        status, outcome = self.world.status, self.world.decide()
        done = outcome.delete or outcome.remove or outcome.apply or outcome.status
        going = any(job.deleting for job in self.world.jobs.values())
        over = status.phase is not None and status.phase.is_terminal
        at_rest = self.world.spec["suspend"] if not publishing.is_settled(self.world.subject) else over
        at_rest = at_rest or status.phase is Phase.SUSPENDED
        assert done or going or at_rest or outcome.requeue_after is not None

    @invariant()
    def published_is_what_was_uploaded(self) -> None:
        status = self.world.status
        condition = conditions.find(status.conditions, conditions.PUBLISHED)
        known = status.publication
        assert (condition is None) == (known is None)
        if condition is None or known is None:
            return
        assert status.phase is Phase.SUCCEEDED
        assert known.published is None or known.target in self.uploaded
        assert condition.status != "True" or known.published is not None

    @invariant()
    def kstatus_is_told_one_thing(self) -> None:
        found = self.world.status.conditions
        if found:
            stalled = conditions.is_true(found, conditions.STALLED)
            reconciling = conditions.is_true(found, conditions.RECONCILING)
            ready = conditions.is_true(found, conditions.READY)
            suspended = conditions.is_true(found, conditions.SUSPENDED)
            assert stalled + reconciling + ready + suspended == 1

    @invariant()
    def each_happening_is_told_at_most_once(self) -> None:
        once = ("Accepted", "Prepared", "Started", "Merging", "Succeeded", "Failed")
        told = [event for event in self.world.events if event.reason in once]
        assert len(told) == len(set(told))

    def teardown(self) -> None:
        """Left alone, operator and cluster come to rest, and a finished job holds no pod that runs."""
        world = self.world
        world.settle(turns=20)
        writes, again = world.writes, world.turn().requeue_after
        world.now += timedelta(seconds=3600 if again is None else max(0, min(3600, again - 1)))
        world.turn()
        assert world.writes == writes, "an idle job is written to"
        phase = world.status.phase
        assert phase is not None
        if world.spec["suspend"] and not phase.is_terminal:
            assert phase is Phase.SUSPENDED
        elif not phase.is_terminal:
            self._nothing_ever_happens_again()
        if phase is Phase.SUCCEEDED and not world.spec["suspend"]:
            self._nothing_is_uploaded_any_more()
        if world.status.phase is Phase.FAILED:
            kept = self.world.kept
            assert {job.uid for job in world.jobs.values()} <= kept
            assert {pod.job_uid for pod in world.pods.values()} <= kept

    def _nothing_ever_happens_again(self) -> None:
        """Nobody reports, nothing starts or ends by itself: then one deadline after the other ends the job."""
        world = self.world
        for _ in range(500):
            world.collect()
            outcome = world.turn()
            if world.status.phase is Phase.FAILED:
                return world.settle()
            if world.status.phase is Phase.QUEUED:
                # Who waits in a queue is given all the time that there is.
                return None
            world.now += timedelta(seconds=outcome.requeue_after or 0)
        raise AssertionError(f"it goes on for ever: {world.status.phase}, {outcome}")

    def _nothing_is_uploaded_any_more(self) -> None:
        """Neither does a pod end by itself: then one try after the other fails, and the upload is given up."""
        world = self.world
        for _ in range(20 * publishing.MAX_TRIES):
            world.collect()
            if publishing.is_settled(world.subject):
                return world.settle(turns=20)
            world.now += timedelta(seconds=world.turn().requeue_after or 0)
        raise AssertionError(f"it goes on for ever: {world.status.publication}")


def _trained(status: FineTuneJobStatus) -> bool:
    return bool(status.attempts) and status.attempts[-1].reason == "Completed"


def _but_for_steps(attempt: Attempt, known: Attempt) -> Attempt:
    steps = {"last_step": known.last_step, "resumed_from_step": known.resumed_from_step}
    return attempt.model_copy(update=steps)


TestHistories = Histories.TestCase
TestHistories.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
