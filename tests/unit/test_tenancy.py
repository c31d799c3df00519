"""What an administrator's policy makes of a job."""

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune_api.crd import structural_schema
from finetune_api.defaults import Defaults
from finetune_api.model import SpecModel
from finetune_api.scheduling import Scheduling
from finetune_api.status import FineTuneJobStatus, Phase
from finetune_operator import validation
from finetune_operator.lifecycle.reconcile import reconcile
from finetune_operator.objects.additions import PodAdditions, TrainingPodAdditions
from finetune_operator.observation.observed import Observed, Subject
from finetune_operator.status import conditions
from finetune_operator.tenancy import Limits, NamespacePolicy, Policy, administered, filled, under
from generated import conforming, jobs
from world import INSTALLATION, START, manifest, submitted

Wire = dict[str, Any]

VALUES_SCHEMA = Path(__file__).parents[2] / "charts" / "finetune-operator" / "values.schema.json"
DEFAULTS: Wire = {
    "queueName": "team",
    "workloadPriorityClassName": "batch",
    "priorityClassName": "low",
    "nodeSelector": {"pool": "training", "zone": "a"},
    "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "topologyKey": "rack",
    "schedulerName": "volcano",
    "podGroup": "Volcano",
    "gpuResourceName": "amd.com/gpu",
    "storageClaimName": "shared",
}


def policy(*images: str, defaults: Wire | None = None, **limits: int) -> Policy:
    """What holds in the namespace of the demo job, and not in others."""
    here = {"defaults": defaults or {}, "limits": limits}
    return Policy.model_validate({"trainerImages": list(images), "namespaces": {"team": here}})


def valid(subject: Subject) -> Subject:
    assert subject.job is not None, subject.problems
    return subject


def spec_under(rules: Policy, status: FineTuneJobStatus | None = None, **spec: Any) -> Wire:
    """What the operator takes for the spec of a job."""
    job = valid(under(rules, submitted(status, **spec))).job
    assert job is not None
    return job.spec.to_wire()


def defaults() -> st.SearchStrategy[Defaults]:
    """Whatever an administrator may set."""
    return (
        conforming(structural_schema(Defaults))
        .map(lambda wire: {key: value for key, value in wire.items() if key != "tolerations"})
        .filter(lambda wire: ("podGroup" not in wire) or ("schedulerName" in wire))
        .filter(lambda wire: ("workloadPriorityClassName" not in wire) or ("queueName" in wire))
        .map(Defaults.model_validate)
    )


slow = settings(
    deadline=None, max_examples=settings().max_examples // 4, suppress_health_check=list(HealthCheck)
)


class TestDefaults:
    def test_what_is_left_open_is_filled_in(self) -> None:
        spec = spec_under(policy(defaults=DEFAULTS), storage={"path": "here"})
        assert spec["scheduling"] | {"tolerations": []} == {
            key: DEFAULTS[key] for key in spec["scheduling"] if key != "tolerations"
        } | {"tolerations": []}
        assert [one["key"] for one in spec["scheduling"]["tolerations"]] == ["gpu"]
        assert spec["resources"]["gpuResourceName"] == "amd.com/gpu"
        assert spec["storage"] == {"claimName": "shared", "path": "here"}

    def test_selectors_and_tolerations_are_added_to_the_jobs_own(self) -> None:
        own = {"key": "gpu", "operator": "Equal", "value": "a", "effect": "NoSchedule"}
        other = {"key": "spot", "operator": "Exists", "effect": "NoExecute"}
        many = DEFAULTS | {"tolerations": [*DEFAULTS["tolerations"], other]}
        scheduling = {"nodeSelector": {"zone": "b"}, "tolerations": [own]}
        spec = spec_under(policy(defaults=many), scheduling=scheduling)["scheduling"]
        assert spec["nodeSelector"] == {"pool": "training", "zone": "b"}
        assert [(one["key"], one.get("value")) for one in spec["tolerations"]] == [("gpu", "a"), ("spot", "")]

    def test_what_goes_with_a_default_comes_with_it_alone(self) -> None:
        stated = {"queueName": "own", "schedulerName": "coscheduler"}
        scheduling = spec_under(policy(defaults=DEFAULTS), scheduling=stated)["scheduling"]
        assert "podGroup" not in scheduling
        assert "workloadPriorityClassName" not in scheduling

    def test_a_namespace_without_an_entry_has_that_of_all_others(self) -> None:
        namespaces = {"other": NamespacePolicy(), "*": NamespacePolicy(defaults=Defaults(queue_name="all"))}
        assert Policy(namespaces=namespaces).of("other").defaults.queue_name is None
        assert Policy(namespaces=namespaces).of("team").defaults.queue_name == "all"
        assert Policy(namespaces={"other": namespaces["*"]}).of("team") == NamespacePolicy()

    def test_every_field_of_scheduling_has_a_default(self) -> None:
        assert set(DEFAULTS) == {str(field.alias) for field in Defaults.model_fields.values()}
        assert set(Scheduling.model_fields) < set(Defaults.model_fields)

    def test_the_chart_knows_every_field(self) -> None:
        schema = json.loads(VALUES_SCHEMA.read_text())["properties"]["namespaces"]["additionalProperties"]
        parts: dict[str, type[SpecModel]] = {
            "defaults": Defaults,
            "limits": Limits,
            "pods": PodAdditions,
            "trainingPods": TrainingPodAdditions,
        }
        assert set(parts) == {str(field.alias) for field in NamespacePolicy.model_fields.values()}
        assert set(parts) == set(schema["properties"])
        for field, model in parts.items():
            known = set(schema["properties"][field]["properties"])
            assert known == {str(field.alias) for field in model.model_fields.values()}

    @slow
    @given(wire=jobs(), found=defaults())
    def test_what_is_stated_wins_and_filling_in_twice_is_filling_in_once(
        self, wire: Wire, found: Defaults
    ) -> None:
        job = validation.parse(wire)
        made = filled(job, found)
        assert filled(made, found) == made
        stated, got = job.spec.to_wire(), made.spec.to_wire()
        for key in stated.keys() - {"scheduling", "resources", "storage"}:
            assert got[key] == stated[key]
        for block in ("scheduling", "resources", "storage"):
            for key, value in stated[block].items():
                if key == "nodeSelector":
                    assert value.items() <= got[block][key].items()
                elif key == "tolerations":
                    assert got[block][key][: len(value)] == value
                else:
                    assert got[block][key] == value

    @slow
    @given(found=defaults(), other=defaults())
    def test_no_default_changes_a_job_that_states_all_of_them(self, found: Defaults, other: Defaults) -> None:
        all_stated = filled(filled(validation.parse(manifest()), found), Defaults.model_validate(DEFAULTS))
        keys = dict.fromkeys(all_stated.spec.scheduling.node_selector, "elsewhere")
        assert filled(all_stated, other.model_copy(update={"node_selector": keys})) == all_stated


class TestRecord:
    """What was filled in is on record from the moment when a job begins."""

    def begun(self) -> FineTuneJobStatus:
        outcome = reconcile(
            under(policy(defaults=DEFAULTS), submitted(storage={})), Observed(), START, INSTALLATION
        )
        assert outcome.status is not None
        return outcome.status

    def test_it_says_what_was_filled_in_and_nothing_else(self) -> None:
        scheduling = {"queueName": "own", "nodeSelector": {"pool": "a", "zone": "b"}}
        subject = under(policy(defaults=DEFAULTS), submitted(scheduling=scheduling))
        status = reconcile(subject, Observed(), START, INSTALLATION).status
        assert status is not None
        assert status.defaults is not None
        recorded = status.defaults.to_wire()
        assert "queueName" not in recorded
        assert recorded["nodeSelector"] == {}
        assert "storageClaimName" not in recorded
        assert recorded["priorityClassName"] == "low"

    def test_without_a_policy_there_is_none(self) -> None:
        status = reconcile(under(policy(), submitted()), Observed(), START, INSTALLATION).status
        assert status is not None
        assert status.defaults is None

    def test_a_policy_that_changes_touches_nothing_that_runs(self) -> None:
        changed = policy(defaults=dict.fromkeys(["queueName", "storageClaimName"], "new"))
        for phase in set(Phase) - {Phase.SUSPENDED}:
            status = self.begun().model_copy(update={"phase": phase})
            assert spec_under(changed, status, storage={}) == spec_under(
                policy(defaults=DEFAULTS), storage={}
            )
            assert spec_under(policy(), status, storage={})["storage"] == {"claimName": "shared"}

    def test_while_suspended_all_but_the_storage_is_taken_anew(self) -> None:
        status = self.begun().model_copy(update={"phase": Phase.SUSPENDED})
        changed = policy(defaults=dict.fromkeys(["queueName", "storageClaimName"], "new"))
        subject = valid(under(changed, submitted(status, storage={}, suspend=False)))
        again = reconcile(subject, Observed(), START + timedelta(hours=1), INSTALLATION).status
        assert again is not None
        assert again.defaults == Defaults(queue_name="new", storage_claim_name="shared")

    def test_a_job_that_is_held_shows_what_would_be(self) -> None:
        subject = under(policy(defaults=DEFAULTS), submitted(suspend=True))
        status = reconcile(subject, Observed(), START, INSTALLATION).status
        assert status is not None
        assert status.defaults is not None
        assert status.defaults.queue_name == "team"

    def test_without_any_claim_nothing_begins(self) -> None:
        subject = under(policy(), submitted(storage={"path": "here"}))
        assert subject.job is None
        [problem] = subject.problems
        assert (
            problem
            == "spec.storage.claimName: is required: the administrator has set no default for namespace team"
        )


class TestLimits:
    GPUS: Wire = {"nodes": 4, "gpusPerNode": 8}

    @pytest.mark.parametrize(
        ("limits", "told"),
        [
            ({"maxNodes": 4, "maxGpus": 32}, None),
            (
                {"maxNodes": 3},
                "spec.resources.nodes: 4 is more than the administrator allows in namespace team: at most 3 (maxNodes)",
            ),
            (
                {"maxGpus": 31},
                "spec.resources.gpusPerNode: 8 on each of 4 nodes is more than the administrator allows in namespace "
                "team: at most 31 GPUs in all (maxGpus), and these are 32",
            ),
        ],
    )
    def test_they_are_told_with_field_value_and_what_is_allowed(self, limits: Wire, told: str | None) -> None:
        subject = under(policy(**limits), submitted(resources=self.GPUS))
        assert subject.problems == (() if told is None else (told,))
        outcome = reconcile(subject, Observed(), START, INSTALLATION)
        assert outcome.status is not None
        accepted = conditions.find(outcome.status.conditions, conditions.ACCEPTED)
        assert accepted is not None
        assert (accepted.status, accepted.message) == (
            "False" if told else "True",
            told or "the spec is valid",
        )
        assert outcome.apply == ()

    def test_a_job_that_runs_is_left_alone(self) -> None:
        for phase in (Phase.PENDING, Phase.RUNNING, Phase.RESTARTING, Phase.MERGING, Phase.SUCCEEDED):
            status = FineTuneJobStatus(start_time=START, phase=phase)
            assert valid(under(policy(maxNodes=1), submitted(status))).refusal is None

    def test_a_suspended_one_does_not_go_on_and_stays_suspended(self) -> None:
        held = replace(submitted(suspend=True), status=FineTuneJobStatus())
        outcome = reconcile(held, Observed(), START, INSTALLATION)
        assert outcome.status is not None
        status = outcome.status.model_copy(update={"start_time": START})
        rules, later = policy(maxNodes=1), START + timedelta(hours=1)
        # As long as it is to be suspended, nothing is the matter.
        valid(under(rules, submitted(status, suspend=True)))
        refused = reconcile(under(rules, submitted(status)), Observed(), later, INSTALLATION).status
        assert refused is not None
        told = {one.type: (one.status, one.last_transition_time) for one in refused.conditions}
        assert refused.phase is Phase.SUSPENDED
        assert told["Accepted"] == ("False", later)
        assert told["Stalled"] == ("True", later)
        assert told["Suspended"] == ("True", START)
        # All the time counts as suspended once it may go on.
        again = reconcile(
            under(policy(), submitted(refused)), Observed(), START + timedelta(hours=2), INSTALLATION
        ).status
        assert again is not None
        assert (again.phase, again.suspended_seconds) == (Phase.PENDING, 7200)

    @slow
    @given(
        wire=jobs(),
        nodes=st.integers(1, 2000),
        gpus=st.integers(0, 70000),
        more=st.integers(0, 100),
    )
    def test_who_allows_more_refuses_no_more(self, wire: Wire, nodes: int, gpus: int, more: int) -> None:
        job = validation.parse(wire)

        def refused(limits: Limits) -> int:
            rules = Policy(namespaces={"*": NamespacePolicy(limits=limits)})
            return len(administered(job, FineTuneJobStatus(), rules).exceeded)

        tight = refused(Limits(max_nodes=nodes, max_gpus=gpus))
        assert refused(Limits(max_nodes=nodes + more, max_gpus=gpus + more)) <= tight
        assert refused(Limits()) == 0
        resources = job.spec.resources
        assert refused(Limits(max_nodes=resources.nodes)) == 0
        assert refused(Limits(max_gpus=resources.nodes * resources.gpus_per_node)) == 0


class TestImages:
    @pytest.mark.parametrize(
        ("image", "pattern", "expected"),
        [
            ("registry.example/ml/trainer:1", "registry.example/ml/trainer:1", True),
            ("registry.example/ml/trainer:2", "registry.example/ml/trainer:1", False),
            ("registry.example/ml/trainer:2", "registry.example/ml/trainer:*", True),
            ("registry.example/ml/trainer", "registry.example/ml/trainer:*", False),
            ("registry.example/ml/trainer2:2", "registry.example/ml/trainer:*", False),
            ("registryXexample/ml/trainer:2", "registry.example/ml/trainer:*", False),
            ("registry.example:5000/evil:1", "registry.example:*", False),
            ("registry.example/ml/trainer:1@sha256:" + "0" * 64, "registry.example/ml/trainer:*", False),
            ("registry.example/ml/trainer@sha256:" + "0" * 64, "registry.example/ml/trainer@*", True),
            ("registry.example/ml/trainer@sha256:0", "registry.example/ml/trainer@*", False),
            ("registry.example/ml/trainer:1\n", "registry.example/ml/trainer:*", False),
        ],
    )
    def test_what_fits_a_pattern(self, image: str, pattern: str, expected: bool) -> None:
        assert policy(pattern).allows(image) is expected

    @pytest.mark.parametrize(
        "pattern", ["*", "registry.example/*", "registry.example/ml/train*", "a*b:1", "a:1*"]
    )
    def test_no_pattern_reaches_beyond_a_repository(self, pattern: str) -> None:
        with pytest.raises(ValueError, match="for every tag of a repository"):
            policy(pattern)

    def test_one_that_is_not_allowed_never_begins(self) -> None:
        subject = under(policy("own:1", "other:*"), submitted(trainerImage="evil:1"))
        assert subject.problems == (
            "spec.trainerImage: evil:1 is not allowed: the administrator allows own:1, other:*. Name one of these, or "
            "none",
        )
        assert valid(under(policy("own:1"), submitted(trainerImage="own:1"))).refusal is None

    def test_one_that_is_not_allowed_any_more_makes_no_more_pods(self) -> None:
        status = FineTuneJobStatus(start_time=START, phase=Phase.PENDING)
        subject = valid(under(policy("own:1"), submitted(status, trainerImage="old:1")))
        outcome = reconcile(subject, Observed(refusal=subject.refusal), START, INSTALLATION)
        assert outcome.apply == ()
        assert outcome.status is not None
        stalled = conditions.find(outcome.status.conditions, conditions.STALLED)
        assert stalled is not None
        assert (stalled.status, stalled.reason) == ("True", "Refused")
        assert stalled.message.startswith("spec.trainerImage: old:1 is not allowed")
