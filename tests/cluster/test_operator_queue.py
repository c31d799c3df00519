"""A queue where there is no Kueue."""

from cluster.kube import JOBS, PODS, Namespace, eventually
from cluster.operators import Operator
from world import INLINE


def test_without_kueue_a_job_for_a_queue_waits_and_says_what_may_be_missing(
    namespace: Namespace, operator: Operator
) -> None:
    namespace.submit(dataset=INLINE, scheduling={"queueName": "team"})
    namespace.in_phase("Queued")
    ready = namespace.condition("Ready")
    assert (ready["status"], ready["reason"]) == ("Unknown", "Queued")
    assert "no Workload of Kueue is seen; see that Kueue is installed" in ready["message"]
    [job] = namespace.all(JOBS)
    assert job["spec"]["suspend"]
    assert namespace.all(PODS) == []

    # Whoever sets it going is obeyed.
    namespace.patch(JOBS, job["metadata"]["name"], {"spec": {"suspend": False}})
    namespace.pods()
    namespace.in_phase("Starting")
    eventually(lambda: "waitingSince" not in namespace.status()["queue"])
