"""Reports do not get through any more, from no gang: none is started again for it."""

import time
from datetime import timedelta

from chaos.conftest import MakeOperator
from chaos.operators import ChaosOperator
from cluster.kube import Namespace, eventually
from world import INLINE, report

DEADLINE_SECONDS = 10
NAMES = ("a", "b", "c")


def impatient() -> None:
    """Have the operator notice within seconds what takes it minutes."""
    from finetune_operator.endpoint import hearing
    from finetune_operator.lifecycle import deadlines

    vars(hearing).update(LONGEST_SILENCE=timedelta(seconds=DEADLINE_SECONDS / 2))
    vars(deadlines).update(MAX_REPORT_INTERVAL_SECONDS=DEADLINE_SECONDS / 2)


def told(namespace: Namespace, operator: ChaosOperator, job: str, token: str, sequence: int = 1) -> None:
    """A trainer shows that it lives."""
    assert operator.post(namespace.name, job, report(sequence=sequence), token=token)[0] == 200


def reasons(namespace: Namespace, job: str) -> list[str | None]:
    """How its attempts ended, None for the one under way."""
    return [attempt.get("reason") for attempt in namespace.status(job)["attempts"]]


def test_gangs_train_on_while_none_is_heard_and_are_judged_again_by_one_that_is(
    namespace: Namespace, make_operator: MakeOperator
) -> None:
    operator = make_operator(mutation=impatient)
    operator.start()
    tokens = {}
    # They are heard right after one another, for the silence of all is to be known before that of one is too long.
    for job in NAMES:
        namespace.submit(
            job, dataset=INLINE, failurePolicy={"progressDeadlineSeconds": DEADLINE_SECONDS, "maxRestarts": 0}
        )
    for job in NAMES:
        pods = namespace.pods(job)
        namespace.run_pods(pods)
        tokens[job] = namespace.token(pods[0])
    for job in NAMES:
        told(namespace, operator, job, tokens[job])
    for job in NAMES:
        namespace.in_phase("Running", job)
    eventually(lambda: "finetune_unheard_gangs 3.0" in operator.get("/metrics")[1], seconds=60)
    time.sleep(2 * DEADLINE_SECONDS)
    assert {job: reasons(namespace, job) for job in NAMES} == {job: [None] for job in NAMES}
    # The way is open again, and one of them is heard all the time.
    for sequence in range(2, 100):
        told(namespace, operator, "a", tokens["a"], sequence)
        assert "finetune_unheard_gangs 0.0" in operator.get("/metrics")[1]
        if all(reasons(namespace, job) == ["Hung"] for job in ("b", "c")):
            break
        time.sleep(2)
    else:
        raise AssertionError("those that are silent alone are not taken for hung")
    assert reasons(namespace, "a") == [None]
