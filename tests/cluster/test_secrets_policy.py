"""Nobody has a job read a Secret or a ConfigMap that they may not read: the chart's policy, asked by real accounts."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cluster.accounts import account, may_read
from cluster.chart import CHART, IMAGES, RELEASE, rendered
from cluster.kube import FINETUNEJOBS, Kube, Namespace, RefusedError, eventually
from clusters.binaries import ensure
from finetune_api.secrets_policy import places
from generated import DATA, replaced
from world import manifest

Wire = dict[str, Any]

ADMISSION = "/apis/admissionregistration.k8s.io/v1"
POLICIES = f"{ADMISSION}/validatingadmissionpolicies"
BINDINGS = f"{ADMISSION}/validatingadmissionpolicybindings"
FORBIDDEN = 403
APPLY = "application/apply-patch+yaml"

HUB: Wire = {"repo": "a/a", "tokenSecretRef": {"name": "hub", "key": "token"}}
STORE: Wire = {"uri": "s3://a/a.jsonl", "credentialsSecretRef": {"name": "store"}}
SECRET = manifest(model={"huggingFace": HUB})
FULL = [
    {"name": f"set-{number}", "objectStore": STORE | {"credentialsSecretRef": {"name": f"store-{number}"}}}
    for number in range(16)
]


@contextmanager
def enforced(kube: Kube, **values: Any) -> Iterator[None]:
    """The chart's policy is known to hold."""
    policy = rendered("ValidatingAdmissionPolicy", **values)
    binding = rendered("ValidatingAdmissionPolicyBinding", **values)
    kube.request("POST", POLICIES, policy, fieldValidation="Strict")
    kube.request("POST", BINDINGS, binding, fieldValidation="Strict")
    name = policy["metadata"]["name"]
    try:
        yield
    finally:
        kube.request("DELETE", f"{BINDINGS}/{name}")
        kube.request("DELETE", f"{POLICIES}/{name}")


@pytest.fixture(scope="module")
def kube(lonely: Kube) -> Kube:
    """No operator begins a job before its test has tried to change it."""
    return lonely


@pytest.fixture(scope="module", autouse=True)
def policy(kube: Kube) -> Iterator[None]:
    with enforced(kube):
        yield


@pytest.fixture
def writer(namespace: Namespace, tmp_path: Path) -> Namespace:
    """Someone who may write FineTuneJobs and nothing else; the policy is known to hold for them."""
    made = account(namespace, tmp_path)
    eventually(lambda: denied(made, manifest("probe", model={"huggingFace": HUB})))
    return made


def denied(namespace: Namespace, job: Wire) -> str:
    """What the API server has against a FineTuneJob that would be created; empty if nothing."""
    try:
        namespace.kube.request("POST", namespace.path(FINETUNEJOBS), job, dryRun="All")
    except RefusedError as error:
        if error.status != FORBIDDEN:
            raise
        return str(error)
    return ""


def refusal(namespace: Namespace, changes: Wire, name: str = "demo") -> str:
    """What the API server has against a change; empty if nothing, and then it is made."""
    try:
        namespace.patch(FINETUNEJOBS, name, changes)
    except RefusedError as error:
        if error.status != FORBIDDEN:
            raise
        return str(error)
    return ""


def naming() -> Iterator[tuple[str, str, Wire]]:
    """For every place, a valid FineTuneJob that names something there: the field, what it names, and the job."""
    for place in places():
        block = "evaluation.sets" if place.items else ".".join(place.block)
        field = place.field.replace("[]", "[general]")
        if place.kind == "ConfigMap":
            named: Wire = {"configMap": {"name": "secret", "key": "a.jsonl"}}
        elif "tracking" in place.path:
            named = {"secretRef": {"name": "secret"}}
        elif place.path[-2] == "huggingFace":
            named = {"huggingFace": HUB | {"tokenSecretRef": {"name": "secret", "key": "token"}}}
            if "model" not in place.path and "publish" not in place.path:
                named["huggingFace"]["path"] = "a.jsonl"
        else:
            named = {"objectStore": STORE | {"credentialsSecretRef": {"name": "secret"}}}
        if place.items:
            yield (
                field,
                place.kind,
                replaced(manifest(), ("evaluation", "sets"), [{"name": "general"} | named]),
            )
        else:
            owner = place.block if block.startswith("tracking") else place.block[:-1]
            yield field, place.kind, replaced(manifest(), owner, named)


def test_the_api_server_finds_no_fault_with_its_expressions(kube: Kube) -> None:
    name = rendered("ValidatingAdmissionPolicy")["metadata"]["name"]
    checked = eventually(
        lambda: kube.request("GET", f"{POLICIES}/{name}")["status"]["typeChecking"] or {"": 0}
    )
    assert not checked.get("expressionWarnings"), checked


@pytest.mark.parametrize(("field", "kind", "job"), [pytest.param(*case, id=case[0]) for case in naming()])
def test_whoever_may_not_read_it_cannot_name_it_anywhere(
    namespace: Namespace, writer: Namespace, tmp_path: Path, field: str, kind: str, job: Wire
) -> None:
    said = denied(writer, job)
    assert f"{field}: system:serviceaccount:{namespace.name}:" in said
    assert f"may not read {kind} secret, so no job of theirs may" in said
    reader = account(namespace, tmp_path, may_read(f"{kind.lower()}s", "secret"))
    assert denied(reader, job) == ""


def test_who_names_nothing_is_not_asked(writer: Namespace) -> None:
    assert denied(writer, manifest()) == ""
    assert denied(writer, manifest(model={"huggingFace": {"repo": "a/a"}})) == ""


def test_the_right_to_read_one_is_none_to_read_another(namespace: Namespace, tmp_path: Path) -> None:
    reader = account(namespace, tmp_path, may_read("secrets", "hub"), may_read("configmaps"))
    assert denied(reader, SECRET) == ""
    job = replaced(SECRET, ("dataset", "train"), {"objectStore": STORE})
    assert "spec.dataset.train.objectStore.credentialsSecretRef: " in denied(reader, job)


def test_a_job_that_names_as_many_as_it_can_is_judged(
    namespace: Namespace, writer: Namespace, tmp_path: Path
) -> None:
    job = manifest(
        model={"huggingFace": HUB},
        dataset={"train": {"objectStore": STORE}, "validation": {"objectStore": STORE}},
        evaluation={"sets": FULL},
        publish={"huggingFace": HUB},
        tracking={"mlflow": {"secretRef": {"name": "a"}}, "wandb": {"secretRef": {"name": "b"}}},
    )
    assert denied(account(namespace, tmp_path, may_read("secrets")), job) == ""
    all_but_the_last = ["hub", "store", "a", *(f"store-{number}" for number in range(15)), "b"]
    said = denied(account(namespace, tmp_path, may_read("secrets", *all_but_the_last)), job)
    assert "spec.evaluation.sets[set-15].objectStore.credentialsSecretRef: " in said


class TestChanges:
    """Of a job that names Secrets, made by someone who may read them."""

    @pytest.fixture(autouse=True)
    def job(self, namespace: Namespace, writer: Namespace) -> None:
        sets = [{"name": "general", "objectStore": STORE}]
        namespace.submit(model={"huggingFace": HUB}, evaluation={"sets": sets})

    def test_others_may_change_the_rest(self, writer: Namespace) -> None:
        assert refusal(writer, {"metadata": {"labels": {"team": "a"}}}) == ""
        assert refusal(writer, {"spec": {"suspend": True, "hyperparameters": {"seed": 7}}}) == ""

    def test_nobody_learns_of_one_by_adding_it(self, writer: Namespace) -> None:
        wandb = {"spec": {"tracking": {"wandb": {"secretRef": {"name": "hub"}}}}}
        assert "spec.tracking.wandb.secretRef: " in refusal(writer, wandb)

    def test_credentials_stay_with_what_they_are_for(self, writer: Namespace) -> None:
        other: Wire = {"spec": {"model": {"huggingFace": {"repo": "b/b"}}}}
        assert "spec.model.huggingFace.tokenSecretRef: " in refusal(writer, other)
        other = {"spec": {"model": {"huggingFace": {"tokenSecretRef": {"name": "hub", "key": "other"}}}}}
        assert "spec.model.huggingFace.tokenSecretRef: " in refusal(writer, other)

    def test_sets_are_known_by_their_names(self, writer: Namespace) -> None:
        kept: Wire = {"name": "general", "objectStore": STORE}
        more: list[Wire] = [{"name": "other"} | DATA["volume"], kept]
        assert refusal(writer, {"spec": {"evaluation": {"sets": more}}}) == ""
        moved = [kept | {"name": "renamed"}]
        said = refusal(writer, {"spec": {"evaluation": {"sets": moved}}})
        assert "spec.evaluation.sets[renamed].objectStore.credentialsSecretRef: " in said

    def test_what_is_named_may_be_taken_away(self, writer: Namespace) -> None:
        assert refusal(writer, {"spec": {"model": {"huggingFace": {"tokenSecretRef": None}}}}) == ""
        back: Wire = {"spec": {"model": {"huggingFace": {"tokenSecretRef": HUB["tokenSecretRef"]}}}}
        assert "spec.model.huggingFace.tokenSecretRef: " in refusal(writer, back)

    def test_applying_the_same_again_asks_nothing(self, namespace: Namespace, writer: Namespace) -> None:
        wire = manifest(model={"huggingFace": HUB})
        path, options = namespace.path(FINETUNEJOBS, "gitops"), {"fieldManager": "gitops", "force": "true"}
        with pytest.raises(RefusedError, match=r"spec\.model\.huggingFace\.tokenSecretRef"):
            writer.kube.request("PATCH", path, manifest("gitops", **wire["spec"]), APPLY, **options)
        namespace.kube.request("PATCH", path, manifest("gitops", **wire["spec"]), APPLY, **options)
        writer.kube.request("PATCH", path, manifest("gitops", **wire["spec"]), APPLY, **options)


def test_the_operator_writes_the_status_of_jobs_that_name_secrets(
    namespace: Namespace, writer: Namespace
) -> None:
    namespace.submit(model={"huggingFace": HUB})
    path = f"{writer.path(FINETUNEJOBS, 'demo')}/status"
    with pytest.raises(RefusedError, match="finetunejobs/status"):
        writer.kube.request("PATCH", path, {"status": {"restarts": 1}}, "application/merge-patch+json")
    namespace.kube.request("PATCH", path, {"status": {"restarts": 1}}, "application/merge-patch+json")


def test_where_the_api_server_knows_no_policies_the_chart_says_what_to_do() -> None:
    helm = [
        str(ensure(["helm"])["helm"]),
        "template",
        RELEASE,
        str(CHART),
        "--kube-version=1.29",
        "--values=-",
    ]
    told = subprocess.run(helm, input=json.dumps(IMAGES), capture_output=True, text=True, check=False)
    assert told.returncode != 0
    assert "secretsPolicy needs Kubernetes 1.30 or later: set secretsPolicy.enabled=false" in told.stderr
    without = json.dumps(IMAGES | {"secretsPolicy": {"enabled": False}})
    done = subprocess.run(helm, input=without, capture_output=True, text=True, check=True)
    assert "ValidatingAdmissionPolicy" not in done.stdout


def test_only_namespaces_that_are_watched_are_asked_about() -> None:
    limited = rendered("ValidatingAdmissionPolicy", watchNamespaces=["team-a"])["spec"]["matchConstraints"]
    [one] = limited["namespaceSelector"]["matchExpressions"]
    assert one == {"key": "kubernetes.io/metadata.name", "operator": "In", "values": ["team-a"]}
    assert "namespaceSelector" not in rendered("ValidatingAdmissionPolicy")["spec"]["matchConstraints"]
