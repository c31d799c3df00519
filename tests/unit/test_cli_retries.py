"""Which ends of pods a Job on this machine survives, as on a cluster."""

import pytest

from finetune_api.spec import FineTuneJob
from finetune_operator.cli.local.retries import given_up
from finetune_operator.objects import workload
from world import INSTALLATION, manifest

LIMIT = "Job has reached the specified backoff limit"


def spec(*, preparation: bool) -> dict[str, object]:
    wire = manifest(failurePolicy={"maxRestarts": 1})
    wire["metadata"] |= {"namespace": "team", "uid": "uid-1"}
    job = FineTuneJob.model_validate(wire)
    made = (
        workload.preparation(job, INSTALLATION)
        if preparation
        else workload.attempt(job, 1, INSTALLATION, prepared={})
    )
    found: dict[str, object] = made[-1]["spec"]
    return found


@pytest.mark.parametrize(
    ("exit_codes", "words"),
    [
        ([], None),
        ([0], None),
        ([1], None),
        ([1, 137], LIMIT),
        ([143, 143, 143, 1], None),
        ([65], "exit code 65 is one that is not tried again"),
        ([1, 74], "exit code 74 is one that is not tried again"),
    ],
)
def test_a_preparation_is_tried_again_as_often_as_the_spec_allows(
    exit_codes: list[int], words: str | None
) -> None:
    assert given_up(spec(preparation=True), exit_codes) == words


@pytest.mark.parametrize(("exit_codes", "words"), [([0, 0], None), ([0, 1], LIMIT), ([143], LIMIT)])
def test_a_gang_is_not(exit_codes: list[int], words: str | None) -> None:
    assert given_up(spec(preparation=False), exit_codes) == words
