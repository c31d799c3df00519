"""Stories that nobody has thought of: whatever happens, the invariants hold, and jobs come to the end they would have.

CHAOS_EXAMPLES is how many there are in all (50 if not set), the same ones every time; CHAOS_SEED makes others of them.
A story that goes wrong is written to tests/chaos/sequences, where test_replayed.py finds it.
"""

import hashlib
import os
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from chaos import steps
from chaos.changes import table
from chaos.finish import finish
from chaos.story import Story, ViolationError, hurried
from cluster.kube import Kube
from finetune_api.failure import ExitCode

SEQUENCES = Path(__file__).with_name("sequences")
EXAMPLES = int(os.environ.get("CHAOS_EXAMPLES", "50"))
SEED = os.environ.get("CHAOS_SEED")
PARTS = 6
# One takes about a second. Stories are not shrunk, which would take hours: the file can be cut down by hand.
STEPS = 10
JOBS = st.sampled_from(["one", "two"])
# How many changes are told of a story that goes wrong.
NOTED = 80
CODES = st.sampled_from([0, 0, 0, *(int(code) for code in ExitCode)])
EDITS = st.sampled_from(
    [
        ("suspend", True),
        ("suspend", False),
        ("ttlSecondsAfterFinished", 3600),
        ("failurePolicy", {"maxRestarts": 5}),
        ("checkpoints", {"keepLast": 3}),
        ("checkpoints", {"keepBest": False}),
    ]
)
CHILDREN = st.sampled_from(["Job", "Pod", "ConfigMap", "Service", "NetworkPolicy"])


class Sequences(RuleBasedStateMachine):
    """Rules do steps; the story looks at everything after each."""

    kube: Kube
    mutation = staticmethod(hurried)

    def __init__(self) -> None:
        super().__init__()
        self._ending = ExitStack()
        directory = Path(self._ending.enter_context(tempfile.TemporaryDirectory()))
        self._story = self._ending.enter_context(Story(self.kube, directory, self.mutation).telling())
        self._failed = False
        self._do(steps.Apply("one"))

    @rule(job=JOBS, inline=st.booleans(), suspend=st.booleans())
    def apply(self, job: str, inline: bool, suspend: bool) -> None:
        self._do(steps.Apply(job, inline, suspend))

    @rule(job=JOBS, edit=EDITS)
    def edit(self, job: str, edit: tuple[str, Any]) -> None:
        self._do(steps.Edit(job, *edit))

    @rule(job=JOBS, value=st.sampled_from(["red", "blue"]))
    def label(self, job: str, value: str) -> None:
        self._do(steps.Label(job, value))

    @rule(job=JOBS)
    def apply_anew(self, job: str) -> None:
        self._do(steps.Remove(job))
        self._do(steps.Apply(job))

    @rule(job=JOBS, kind=CHILDREN)
    def remove_child(self, job: str, kind: str) -> None:
        self._do(steps.RemoveChild(job, kind))

    @rule(job=JOBS, step=st.integers(1, 36))
    def train(self, job: str, step: int) -> None:
        self._do(steps.Settle())
        self._do(steps.Run(job))
        self._do(steps.Tell(job, step))

    @rule(job=JOBS, code=CODES)
    def end(self, job: str, code: int) -> None:
        self._do(steps.Settle())
        self._do(steps.End(job, code))

    @rule(job=JOBS)
    def end_out_of_memory(self, job: str) -> None:
        self._do(steps.End(job, 137, "OOMKilled"))

    @rule(job=JOBS)
    def disrupt(self, job: str) -> None:
        self._do(steps.Disrupt(job))

    @rule(job=JOBS)
    def vanish(self, job: str) -> None:
        self._do(steps.Vanish(job))

    @rule(job=JOBS)
    def evict(self, job: str) -> None:
        self._do(steps.Evict(job))

    @rule(write=st.integers(1, 6), after=st.booleans())
    def crash(self, write: int, after: bool) -> None:
        self._do(steps.Crash(write, after))

    @rule(status=st.sampled_from([409, 429, 500, 503]), times=st.integers(1, 3))
    def refuse(self, status: int, times: int) -> None:
        self._do(steps.Refuse(status, times))

    @rule(gone=st.booleans())
    def cut_watches(self, gone: bool) -> None:
        self._do(steps.CutWatches(gone))

    @rule()
    def second_operator(self) -> None:
        self._do(steps.Second())

    def teardown(self) -> None:
        """The end of the story, if it has gone well so far."""
        with self._ending:
            if not self._failed:
                self._recorded(lambda: finish(self._story))

    def _do(self, step: steps.Step) -> None:
        self._recorded(lambda: self._story.do(step))

    def _recorded(self, happens: Any) -> None:
        try:
            happens()
        except Exception as error:
            self._failed = True
            violated = error.found if isinstance(error, ViolationError) else [str(error)]
            # Hypothesis tells it once more at once, and names of pods are others then: it is the same story.
            story = hashlib.sha256(steps.to_json(self._story.told).encode()).hexdigest()
            file = SEQUENCES / f"{story[:12]}.json"
            file.write_text(steps.to_json(self._story.told, violated))
            error.add_note(
                "It is told again by: hack/uv run --all-extras python -m pytest tests/chaos/test_replayed.py "
                f"-k {file.stem}"
            )
            error.add_note(f"It is written to: {file}")
            error.add_note(f"What happened last:\n{table(self._story.history.changes[-NOTED:])}")
            raise


@pytest.mark.parametrize("part", range(PARTS))
def test_whatever_happens(part: int, kube: Kube) -> None:
    examples = EXAMPLES // PARTS + (part < EXAMPLES % PARTS)
    if examples == 0:
        pytest.skip("CHAOS_EXAMPLES leaves none for this part")
    # Without a seed of their own, all parts would tell the same stories.
    seeded = seed(f"{SEED or 'chaos'}-{part}")
    machine = seeded(type(f"Part{part}", (Sequences,), {"kube": kube}))
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            print_blob=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
