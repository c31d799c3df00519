"""The file with the administrator's policy."""

import asyncio
import logging
from pathlib import Path

import pytest

from finetune_operator import policy_file
from finetune_operator.policy_file import PolicyError, PolicyFile

OWN = "registry.example/trainer:1"


def write(file: Path, text: str) -> None:
    file.write_text(text)


def read(file: Path, text: str) -> PolicyFile:
    write(file, text)
    return PolicyFile(file, trainer_image=OWN)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "policy.yaml"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy_file, "LOOK_SECONDS", 0.01)


def test_without_a_file_only_the_own_image_is_allowed() -> None:
    policy = PolicyFile(None, trainer_image=OWN).current()
    assert policy.allows(OWN)
    assert not policy.allows("another:1")


def test_it_is_read_as_helm_writes_it(file: Path) -> None:
    found = read(file, "trainerImages: [a:1]\nnamespaces: {team: {limits: {maxNodes: 2.0}}}\n").current()
    assert found.trainer_images == [OWN, "a:1"]
    assert found.of("team").limits.max_nodes == 2
    assert read(file, "").current().namespaces == {}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("namespaces: {team: {limits: {maxNodes: 0}}}", "namespaces.team.limits.maxNodes: "),
        (
            "namespaces: {team: {defaults: {queuename: a}}}",
            "namespaces.team.defaults.queuename: there is no such field; did you mean queueName?",
        ),
        ("namespaces: {team: {default: {}}}", "did you mean defaults?"),
        ("namespaces: {Team: {}}", "namespaces.Team: must match pattern"),
        ("namespaces: {team: {defaults: {podGroup: Volcano}}}", "podGroup needs schedulerName"),
        (
            "namespaces: {team: {pods: {env: {FINETUNE_ATTEMPT: '2'}}}}",
            "namespaces.team.pods.env.FINETUNE_ATTEMPT: is the operator's own: name none that begins with FINETUNE_",
        ),
        ("namespaces: {team: {pods: {env: {A: 1}}}}", "namespaces.team.pods.env.A: must be a valid string"),
        ("namespaces: {team: {pods: {env: {A-B: x}}}}", "namespaces.team.pods.env.A-B: must match"),
        (
            "namespaces: {team: {pods: {labels: {finetune.dev/job: x}}}}",
            "namespaces.team.pods.labels.finetune.dev/job: is not the administrator's to set",
        ),
        (
            "namespaces: {team: {pods: {labels: {app.kubernetes.io/managed-by: x}}}}",
            "namespaces.team.pods.labels.app.kubernetes.io/managed-by: is not the administrator's to set",
        ),
        (
            "namespaces: {team: {pods: {labels: {job-name: x}}}}",
            "namespaces.team.pods.labels.job-name: is not the administrator's to set",
        ),
        (
            "namespaces: {team: {trainingPods: {annotations: {batch.kubernetes.io/job-name: x}}}}",
            "is not the administrator's to set, as all of these: app.kubernetes.io/managed-by, controller-uid, "
            "job-name, finetune.dev/…, batch.kubernetes.io/…",
        ),
        (
            "namespaces: {team: {pods: {runtimeClassName: nvidia}}}",
            "namespaces.team.pods.runtimeClassName: there is no such field",
        ),
        ("namespaces: {team: {trainingPods: {resources: {cpu: 1}}}}", "trainingPods.resources.cpu: "),
        (
            "namespaces: {team: {trainingPods: {resources: {rdma/hca: 0}}}}",
            "namespaces.team.trainingPods.resources.rdma/hca: ",
        ),
        ("trainerImages: ['*']", "trainerImages[0]: must be an image as its registry has it"),
        ("namespaces: [", "is not valid YAML"),
        ("- a", "must be an object"),
    ],
)
def test_what_is_wrong_with_it_is_told_by_field(file: Path, text: str, told: str) -> None:
    with pytest.raises(PolicyError, match=r"policy\.yaml") as raised:
        read(file, text)
    assert told in str(raised.value)


def test_a_file_that_is_missing_is_an_error(file: Path) -> None:
    with pytest.raises(PolicyError, match="cannot be read"):
        PolicyFile(file, trainer_image=OWN)


async def test_changes_are_taken_up_and_faults_are_not(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    policy = read(file, "trainerImages: [a:1]")
    taken_up = asyncio.Event()
    following = asyncio.create_task(policy.follow(taken_up.set))
    try:
        with caplog.at_level(logging.ERROR):
            write(file, "trainerImages: 1")
            await asyncio.sleep(0.2)
        assert policy.current().allows("a:1")
        assert not taken_up.is_set()
        [told] = [record.getMessage() for record in caplog.records]
        assert "the policy stays as it was" in told
        assert "trainerImages" in told
        write(file, "trainerImages: [b:1]")
        await asyncio.wait_for(taken_up.wait(), 10)
        assert policy.current().trainer_images == [OWN, "b:1"]
    finally:
        following.cancel()
