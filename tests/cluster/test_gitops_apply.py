"""What becomes of a training job when its manifest is applied again, changed, replaced, or leaves the repository.

By kubectl, as people and Argo CD do it, and by server-side apply, as Flux does.
"""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.kube import FINETUNEJOBS, JOBS, PODS, Namespace, RefusedError, Wire, eventually
from cluster.operators import Operator
from cluster.test_secrets_policy import enforced
from clusters.cluster import kubectl
from clusters.console import ClusterError
from world import INLINE, PUBLISH, manifest, report

pytestmark = pytest.mark.usefixtures("operator")

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
APPLY = "application/apply-patch+yaml"
FLUX, ARGO_CD = "kustomize-controller", "argocd-controller"
# What may change while it trains.
FREE: dict[str, Any] = PUBLISH | {
    "ttlSecondsAfterFinished": 3600,
    "failurePolicy": {"maxRestarts": 7},
    "checkpoints": {"keepLast": 3},
    "tracking": {"mlflow": {"secretRef": {"name": "mlflow"}}},
}
OTHER_RATE = {"hyperparameters": {"learningRate": 1e-4}}


@dataclass
class Repository:
    """The demo job as it stands in Git."""

    namespace: Namespace
    manifest: Wire

    def with_spec(self, **fields: Any) -> "Repository":
        """Another commit."""
        changed = copy.deepcopy(self.manifest)
        changed["spec"] |= fields
        return Repository(self.namespace, changed)

    def with_metadata(self, **fields: Any) -> "Repository":
        """Another commit."""
        changed = copy.deepcopy(self.manifest)
        changed["metadata"] |= fields
        return Repository(self.namespace, changed)

    def kubectl(self, *arguments: str) -> str:
        """Hand the manifest to kubectl."""
        where = (f"--namespace={self.namespace.name}", "--filename=-")
        return kubectl(
            self.namespace.kube.kubeconfig, *arguments, *where, stdin=yaml.safe_dump(self.manifest)
        )

    def apply(self, manager: str, *, force: bool = True, **query: str) -> Wire:
        """Apply it on the server's side, as the tool of this name does."""
        path = self.namespace.path(FINETUNEJOBS, self.manifest["metadata"]["name"])
        query |= {"fieldManager": manager, "force": str(force).lower()}
        return self.namespace.kube.request("PATCH", path, self.manifest, APPLY, **query)


@dataclass(frozen=True)
class Standing:
    """What stays as it is while a job trains on."""

    uid: str
    phase: str
    attempts: list[Wire]
    objects: dict[str, str]
    """Uids of its Jobs and pods that nobody has asked to go, by name."""


def standing(namespace: Namespace) -> Standing:
    job = namespace.job()
    owned = [found["metadata"] for template in (JOBS, PODS) for found in namespace.all(template)]
    return Standing(
        uid=job["metadata"]["uid"],
        phase=job["status"]["phase"],
        attempts=job["status"]["attempts"],
        objects={
            metadata["name"]: metadata["uid"] for metadata in owned if "deletionTimestamp" not in metadata
        },
    )


def seen(namespace: Namespace, generation: int) -> None:
    """Wait until the operator has looked at this generation of the demo job."""
    eventually(lambda: namespace.status()["observedGeneration"] == generation)
    assert namespace.job()["metadata"]["generation"] == generation


@pytest.fixture
def git(namespace: Namespace, operator: Operator) -> Repository:
    """A repository whose job has been applied, and trains."""
    repository = Repository(namespace, manifest(dataset=INLINE))
    repository.kubectl("apply")
    pods = namespace.pods()
    namespace.run_pods(pods)
    assert operator.post(namespace.name, "demo", report(1), token=namespace.token(pods[0]))[0] == 200
    namespace.in_phase("Running")
    return repository


# Again


def test_whoever_applies_the_same_manifest_again_changes_nothing(git: Repository) -> None:
    before = standing(git.namespace)
    assert "unchanged" in git.kubectl("apply")
    git.kubectl("apply", "--server-side", "--force-conflicts")
    git.apply(FLUX)
    git.apply(FLUX, force=False)
    git.apply(ARGO_CD, force=False)
    # It has no status in it, and takes none away: only the operator writes that.
    git.kubectl("replace")
    seen(git.namespace, 1)
    assert standing(git.namespace) == before
    live = git.namespace.job()
    assert "finalizers" not in live["metadata"]
    owners = {(entry["manager"], entry.get("subresource")) for entry in live["metadata"]["managedFields"]}
    assert {by for by, part in owners if part == "status"} == {"finetune-operator"}
    assert ("finetune-operator", None) not in owners


def test_a_replace_by_what_was_read_changes_nothing(git: Repository) -> None:
    before = standing(git.namespace)
    read = git.namespace.job()
    del read["metadata"]["resourceVersion"]
    Repository(git.namespace, read).kubectl("replace")
    del read["status"]
    Repository(git.namespace, read).kubectl("replace")
    seen(git.namespace, 1)
    assert standing(git.namespace) == before


def test_a_running_job_does_not_differ_from_git(git: Repository) -> None:
    # kubectl exits 1 for any difference.
    assert git.kubectl("diff") == ""
    git.apply(FLUX)
    live, dry_run = git.namespace.job(), git.apply(FLUX, dryRun="All")
    assert dry_run["spec"] == live["spec"]
    assert dry_run["metadata"] == live["metadata"]


def test_no_example_differs_from_git_once_it_has_been_stored(namespace: Namespace) -> None:
    """What the API server fills in is of the same spelling the next time."""
    jobs = [
        document
        for file in EXAMPLES.glob("*.yaml")
        for document in yaml.safe_load_all(file.read_text())
        if document and document["kind"] == "FineTuneJob"
    ]
    assert len(jobs) > 10
    for job in jobs:
        job["metadata"]["namespace"] = namespace.name
        # Nothing is to be made of them.
        job["spec"]["suspend"] = True
        repository = Repository(namespace, job)
        stored = repository.apply(FLUX, fieldValidation="Strict")
        assert repository.apply(FLUX, dryRun="All")["spec"] == stored["spec"]
        assert repository.apply(ARGO_CD)["metadata"]["generation"] == 1


def test_flux_s_account_applies_jobs_that_name_secrets_of_theirs_and_no_others(namespace: Namespace) -> None:
    account = (EXAMPLES / "gitops" / "flux" / "service-account.yaml").read_text()
    kubeconfig = namespace.kube.kubeconfig
    kubectl(kubeconfig, "apply", "--filename=-", stdin=account.replace("team-a", namespace.name))
    as_flux = f"--as=system:serviceaccount:{namespace.name}:finetunejobs"

    def naming(secret: str) -> Repository:
        token = {"name": secret, "key": "token"}
        return Repository(
            namespace, manifest(model={"huggingFace": {"repo": "a/a", "tokenSecretRef": token}})
        )

    def said(job: Repository) -> str:
        try:
            return job.kubectl("apply", "--server-side", "--dry-run=server", as_flux)
        except ClusterError as error:
            return str(error)

    with enforced(namespace.kube):
        # It takes a moment until a policy holds.
        eventually(lambda: "may not read Secret another, so no job of theirs may" in said(naming("another")))
        naming("hub").kubectl("apply", "--server-side", as_flux)
        assert "serverside-applied" in said(naming("hub"))
        naming("hub").kubectl("delete", as_flux)


# Changed


def test_labels_and_annotations_change_nothing_of_the_run(git: Repository) -> None:
    before = standing(git.namespace)
    labelled = git.with_metadata(labels={"team": "support"}, annotations={"example.com/ticket": "7"})
    labelled.kubectl("apply")
    labelled.apply(FLUX)
    git.with_metadata(labels={"team": "search"}).kubectl("replace")
    # Without what kubectl and Argo CD keep there.
    git.namespace.patch(FINETUNEJOBS, "demo", {"metadata": {"annotations": None, "labels": None}})
    seen(git.namespace, 1)
    assert standing(git.namespace) == before


def test_what_does_not_decide_the_result_changes_while_it_trains(git: Repository) -> None:
    before = standing(git.namespace)
    git.with_spec(**FREE).kubectl("apply")
    seen(git.namespace, 2)
    assert standing(git.namespace) == before
    git.kubectl("apply")
    seen(git.namespace, 3)
    assert standing(git.namespace) == before


def test_what_decides_the_result_is_refused_in_words_that_say_what_to_do(git: Repository) -> None:
    before = standing(git.namespace)
    changed = git.with_spec(**OTHER_RATE)
    for refused in (
        lambda: changed.kubectl("apply"),
        lambda: changed.kubectl("replace"),
        lambda: changed.apply(FLUX),
    ):
        with pytest.raises(
            (ClusterError, RefusedError), match=r"spec\.hyperparameters is fixed once training has begun"
        ):
            refused()
    with pytest.raises(ClusterError, match=r"spec\.resources may change while the job is suspended"):
        git.with_spec(resources={"nodes": 3, "gpusPerNode": 0}).kubectl("apply")
    assert git.namespace.job()["metadata"]["generation"] == 1
    assert standing(git.namespace) == before


def test_a_field_that_there_is_not_is_refused(git: Repository) -> None:
    misspelt = git.with_spec(ttlSecondAfterFinished=60)
    with pytest.raises(ClusterError, match=r'unknown field "spec\.ttlSecondAfterFinished"'):
        misspelt.kubectl("apply")
    with pytest.raises(RefusedError, match=r"spec\.ttlSecondAfterFinished"):
        misspelt.apply(FLUX)
    assert git.namespace.job()["metadata"]["generation"] == 1


# Suspended by somebody else


def test_who_suspended_a_job_is_told_by_a_conflict_and_overruled_by_force(git: Repository) -> None:
    says = git.with_spec(suspend=False)
    says.apply(FLUX)
    git.namespace.kube.request(
        "PATCH",
        git.namespace.path(FINETUNEJOBS, "demo"),
        {"spec": {"suspend": True}},
        "application/merge-patch+json",
        fieldManager="somebody",
    )
    git.namespace.in_phase("Suspended")
    with pytest.raises(RefusedError, match=r'conflict with \\"somebody\\".*\.spec\.suspend'):
        says.apply(ARGO_CD, force=False)
    # Git that does not name the field leaves it to whoever does.
    git.apply(ARGO_CD)
    assert git.namespace.job()["spec"]["suspend"] is True
    says.apply(ARGO_CD)
    assert len(git.namespace.pods(attempt=2)) == 2


# Replaced, and gone


def test_a_forced_replace_is_another_job_that_trains_from_the_start(git: Repository) -> None:
    before = standing(git.namespace)
    git.with_spec(**OTHER_RATE).kubectl("replace", "--force", "--grace-period=0")

    def anew() -> Standing:
        after = standing(git.namespace)
        assert after.objects.keys() >= {"demo-1"}
        assert not set(after.objects.values()) & set(before.objects.values())
        return after

    after = eventually(anew)
    assert after.uid != before.uid
    assert [attempt["number"] for attempt in after.attempts] == [1]
    assert git.namespace.job()["spec"]["hyperparameters"]["learningRate"] == 1e-4
    assert "progress" not in git.namespace.status()


@pytest.mark.parametrize("how", ["background", "foreground"])
def test_a_job_that_leaves_git_leaves_nothing(git: Repository, how: str) -> None:
    git.kubectl("delete", f"--cascade={how}", "--timeout=30s")
    eventually(lambda: git.namespace.belongings() == [])
    with pytest.raises(RefusedError):
        git.namespace.job()


def test_what_is_orphaned_is_left_alone_and_its_name_is_free_once_it_is_gone(git: Repository) -> None:
    namespace, before = git.namespace, standing(git.namespace).objects
    git.kubectl("delete", "--cascade=orphan", "--timeout=30s")
    eventually(lambda: "ownerReferences" not in namespace.get(JOBS, "demo-1")["metadata"])
    git.kubectl("apply")
    # They write to the same directory.
    eventually(lambda: namespace.condition("Ready")["reason"] == "WaitingForPods")
    assert standing(namespace).objects == before
    for pod in namespace.pods():
        namespace.end_pod(pod, 0)
    eventually(lambda: namespace.condition("Stalled")["reason"] == "NameConflict")
    assert standing(namespace).objects == before
    everything = "jobs,services,configmaps,networkpolicies"
    arguments = ("delete", everything, "--selector=finetune.dev/job=demo", f"--namespace={namespace.name}")
    kubectl(namespace.kube.kubeconfig, *arguments)
    eventually(lambda: not set(namespace.pods()) & set(before))
