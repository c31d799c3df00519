"""The example of osft on two pods, one of which is killed in the middle, and a sister job that starts meanwhile."""

import signal
from typing import Any

import pytest

from e2e import faults
from e2e.jobs import example, losses, save_inputs, status, weights
from e2e.namespace import Namespace

JOB, SISTER = "subspaces", "subspaces-sister"
# Seven in each of the tiny model's two blocks.
MATRICES = 14


@pytest.fixture(scope="module")
def finished(namespace: Namespace) -> Namespace:
    """The jobs have come to their ends: the one that was hit, and one alike that nothing happened to."""
    save_inputs(namespace, samples=120)
    job, sister = (_example(name) for name in (JOB, SISTER))
    namespace.apply(job)
    namespace.follow(JOB, _has_a_state)
    faults.signal_training(namespace, faults.gang(namespace, JOB)[1], signal.SIGKILL)
    # What the first has decomposed is there before the other looks for it.
    namespace.apply(sister)
    for name in (JOB, SISTER):
        namespace.wait(name, "condition=Succeeded")
    return namespace


def _example(name: str) -> dict[str, Any]:
    job = example("osft-cpu.yaml", name, effectiveBatchSize=20, numEpochs=25)
    job["spec"]["checkpoints"] = {"everySteps": 8}
    return job


def _has_a_state(found: dict[str, Any]) -> bool:
    return any(checkpoint["kind"] == "resume" for checkpoint in found.get("checkpoints", []))


def test_the_weights_are_those_of_the_job_that_nothing_happened_to(finished: Namespace) -> None:
    killed, completed = status(finished, JOB)["attempts"]
    assert (killed["reason"], completed["reason"]) == ("Killed", "Completed")
    assert 0 < completed["resumedFromStep"] <= killed["lastStep"]
    assert losses(finished, JOB) == losses(finished, SISTER)
    runs = finished.claim("runs")
    assert weights(runs / JOB / "output") == weights(runs / SISTER / "output")


def test_the_sister_and_the_restart_found_what_was_decomposed(finished: Namespace) -> None:
    kept = [place for place in (finished.claim("runs") / ".decompositions").iterdir() if place.is_dir()]
    assert len(kept) == MATRICES
    for name in (JOB, SISTER):
        pods = faults.gang(finished, name)
        assert len(pods) == 2
        for pod in pods:
            assert "decomposed 0 matrices" in finished.kubectl("logs", pod)


def test_the_status_tells_what_is_trained_and_that_nothing_leaks(finished: Namespace) -> None:
    for name in (JOB, SISTER):
        found = status(finished, name)["subspaces"]
        assert (found["decomposed"], found["of"]) == (MATRICES, MATRICES)
        assert all(kind["trained"] == kind["directions"] / 2 for kind in found["matrices"])
        assert 0 < found["leak"] < 1e-5


def test_the_model_is_an_ordinary_one(finished: Namespace) -> None:
    from transformers import AutoModelForCausalLM

    runs, models = finished.claim("runs"), finished.claim("models")
    trained, base = (
        AutoModelForCausalLM.from_pretrained(place) for place in (runs / JOB / "output", models / "tiny")
    )
    shapes = {name: weight.shape for name, weight in base.named_parameters()}
    assert {name: weight.shape for name, weight in trained.named_parameters()} == shapes
