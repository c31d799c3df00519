"""How the benchmark of the operator makes ratios of what it measured."""

import json
from collections import Counter

from benchmarks.operator import audit
from benchmarks.operator.figures import figures, percentile
from benchmarks.operator.publish import markdown
from benchmarks.operator.samples import Turn
from benchmarks.operator.systems import FLOOR, KUBEFLOW, OURS
from benchmarks.operator.work import Work

WORK = Work(100, 2, "burst", "finish", repetitions=2)


def turn(system: str, seconds: float, *, repetition: int = 0, writes: int = 0) -> Turn:
    return Turn(
        "default",
        WORK,
        system,
        repetition,
        first_pod=[seconds],
        last_pod=[seconds],
        complete_at=[seconds],
        writes=Counter({"create jobs": writes}),
    )


def test_ratios_are_made_within_repetitions() -> None:
    turns = [
        *(turn(FLOOR, seconds, repetition=n) for n, seconds in enumerate((1.0, 10.0))),
        *(turn(OURS, seconds, repetition=n) for n, seconds in enumerate((1.0, 10.0))),
        *(turn(KUBEFLOW, seconds, repetition=n) for n, seconds in enumerate((3.0, 30.0))),
    ]
    found = {figure.key: figure for figure in figures(turns)}
    assert found["jobs_per_s_vs_floor_100x2"].value == 1.0
    assert found["jobs_per_s_vs_kubeflow_100x2"].value == 3.0
    assert found["jobs_per_s_vs_kubeflow_100x2"].met


def test_a_system_that_failed_leaves_no_ratio_and_is_named() -> None:
    turns = [turn(OURS, 1.0, writes=8), turn(KUBEFLOW, 1.0, writes=10)]
    found = figures(turns)
    keys = {figure.key: figure.value for figure in found}
    assert keys["api_writes_per_job_vs_kubeflow"] == 0.8
    assert "jobs_per_s_vs_floor_100x2" not in keys
    assert "- floor: away" in markdown(turns, ["floor: away"], "a machine", found)


def test_percentiles_are_values_that_were_measured() -> None:
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile([float(n) for n in range(1, 101)], 0.99) == 99.0


def test_writes_are_counted_by_who_wrote() -> None:
    def line(agent: str, verb: str, namespace: str = "n", **about: str) -> str:
        return json.dumps(
            {
                "userAgent": agent,
                "verb": verb,
                "objectRef": {"namespace": namespace, "resource": "pods"} | about,
            }
        )

    own, manager = audit.writes(
        [
            line("operator", "patch", subresource="status"),
            line("operator", "patch", namespace="other"),
            line(audit.USER_AGENT, "create"),
            line("kube-controller-manager/v1.34", "create"),
        ],
        "n",
    )
    assert own == {"patch pods/status": 1}
    assert manager == {"create pods": 1}
