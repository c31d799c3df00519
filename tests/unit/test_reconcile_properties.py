"""What holds for every history of a FineTuneJob, whatever befalls its pods, its Reports and the operator itself."""

from dataclasses import replace
from datetime import timedelta

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from finetune_api.status import Attempt, FineTuneJobStatus, Phase
from finetune_operator import conditions
from world import OUTPUT, World, checkpoint, report

MAX_RESTARTS = 2
EXIT_CODES = st.sampled_from([1, 65, 71, 137, 143, 200, 201, 42])


class Histories(RuleBasedStateMachine):
    """The operator takes turns, and may die after any write; meanwhile the cluster does what it likes."""

    @initialize()
    def submit(self) -> None:
        self.world = World(spec={"failurePolicy": {"maxRestarts": MAX_RESTARTS}})
        self.sequence = 0
        self.settled: FineTuneJobStatus | None = None
        self.ended: dict[int, Attempt] = {}

    # The operator

    @rule(crash_after=st.none() | st.integers(0, 6))
    def reconcile(self, crash_after: int | None) -> None:
        outcome = self.world.decide()
        for job in outcome.delete:
            verdicts = {a.number for a in self.world.status.attempts if a.end_time is not None}
            assert job.attempt in verdicts, "the evidence is deleted before the verdict is on record"
        if outcome.apply:
            assert self.world.status.attempts[-1].end_time is None, (
                "a gang starts without its attempt on record"
            )
        self.world.turn(crash_after=crash_after)

    @rule()
    def restart_of_the_operator(self) -> None:
        self.world.posted = None

    @rule(seconds=st.integers(1, 60))
    def wait(self, seconds: int) -> None:
        self.world.now += timedelta(seconds=seconds)

    # The cluster

    @rule()
    def collect_garbage(self) -> None:
        self.world.collect()

    @precondition(lambda self: self.world.pods)
    @rule()
    def pods_run(self) -> None:
        self.world.run_pods()

    def _alive(self) -> list[int]:
        return [pod.index for pod in self.world.pods.values() if pod.end is None and pod.index is not None]

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
        if self.world.jobs:
            [name] = list(self.world.jobs)
            self.world.jobs[name] = replace(self.world.jobs[name], failed=True)

    @precondition(lambda self: self.world.pods)
    @rule(data=st.data())
    def pod_vanishes(self, data: st.DataObject) -> None:
        del self.world.pods[data.draw(st.sampled_from(sorted(self.world.pods)))]
        for name, job in self.world.jobs.items():
            if not job.complete:
                self.world.jobs[name] = replace(job, failed=True)

    @precondition(lambda self: self.world.jobs and not self.world.pods)
    @rule()
    def somebody_deletes_the_job(self) -> None:
        self.world.jobs.clear()

    @precondition(lambda self: len(self._alive()) == 2 and len(self.world.jobs) == 1)
    @rule(told=st.booleans())
    def pods_succeed(self, told: bool) -> None:
        self.sequence += 1
        number = self.world.status.attempts[-1].number
        last = report(number, self.sequence, step=36, output=OUTPUT, checkpoints=[checkpoint(36)])
        self.world.succeed(last if told else None)

    @precondition(lambda self: len(self.world.jobs) == 1)
    @rule(step=st.none() | st.integers(0, 36))
    def report_arrives(self, step: int | None) -> None:
        self.sequence += 1
        saved = [checkpoint(step)] if step and step % 6 == 0 else []
        [gang] = self.world.jobs.values()
        self.world.post(report(gang.attempt, self.sequence, step, checkpoints=saved))

    @rule()
    def user_edits_what_is_free(self) -> None:
        self.world.generation += 1

    # What always holds

    @invariant()
    def at_most_one_gang(self) -> None:
        assert len({pod.job_uid for pod in self.world.pods.values()}) <= 1
        assert len(self.world.jobs) <= 1

    @invariant()
    def every_gang_is_on_record(self) -> None:
        numbers = [attempt.number for attempt in self.world.status.attempts]
        assert numbers == list(range(1, len(numbers) + 1))
        assert {job.attempt for job in self.world.jobs.values()} <= set(numbers)

    @invariant()
    def an_end_is_final(self) -> None:
        for attempt in self.world.status.attempts:
            if attempt.number in self.ended:
                assert attempt == self.ended[attempt.number]
            elif attempt.end_time is not None:
                self.ended[attempt.number] = attempt

    @invariant()
    def terminal_phases_are_absorbing(self) -> None:
        status = self.world.status.model_copy(update={"observed_generation": 0, "conditions": []})
        if self.settled is not None:
            assert status == self.settled
        elif self.world.status.phase in (Phase.SUCCEEDED, Phase.FAILED):
            self.settled = status

    @invariant()
    def the_budget_is_kept(self) -> None:
        status = self.world.status
        assert (status.restarts or 0) == sum(bool(attempt.counted) for attempt in status.attempts)
        assert (status.restarts or 0) <= MAX_RESTARTS

    @invariant()
    def kstatus_is_told_one_thing(self) -> None:
        found = self.world.status.conditions
        if found:
            stalled = conditions.is_true(found, conditions.STALLED)
            reconciling = conditions.is_true(found, conditions.RECONCILING)
            ready = conditions.is_true(found, conditions.READY)
            assert stalled + reconciling + ready == 1

    @invariant()
    def each_happening_is_told_at_most_once(self) -> None:
        told = [event for event in self.world.events if event.reason in ("Started", "Succeeded", "Failed")]
        assert len(told) == len(set(told))

    def teardown(self) -> None:
        """Left alone, operator and cluster come to rest, and a finished job holds no pod that runs."""
        world = self.world
        world.settle(turns=20)
        writes = world.writes
        world.now += timedelta(hours=1)
        world.turn()
        assert world.writes == writes, "an idle job is written to"
        if world.status.phase is Phase.FAILED:
            assert not world.jobs
            assert not world.pods


TestHistories = Histories.TestCase
TestHistories.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
