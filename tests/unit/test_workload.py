"""The objects of an attempt."""

from dataclasses import replace
from typing import Any

import pytest

from finetune_api.runconfig import RunConfig
from finetune_api.spec import FineTuneJob
from finetune_operator.objects.workload import Installation, attempt, merging, preparation, publishing
from world import INSTALLATION, MERGES, PUBLISH, manifest


def job(**spec: Any) -> FineTuneJob:
    wire = manifest(**spec)
    wire["metadata"] |= {"namespace": "team", "uid": "uid-1"}
    return FineTuneJob.model_validate(wire)


def objects(
    number: int = 1, installation: Installation = INSTALLATION, **spec: Any
) -> dict[str, dict[str, Any]]:
    """The manifests, by kind."""
    return {found["kind"]: found for found in attempt(job(**spec), number, installation, prepared={})}


def pod_spec(**spec: Any) -> dict[str, Any]:
    found: dict[str, Any] = objects(**spec)["Job"]["spec"]["template"]["spec"]
    return found


def container(**spec: Any) -> dict[str, Any]:
    [found] = pod_spec(**spec)["containers"]
    assert isinstance(found, dict)
    return found


def environment(**spec: Any) -> dict[str, Any]:
    return {
        variable["name"]: variable.get("value", variable.get("valueFrom"))
        for variable in container(**spec)["env"]
    }


def test_the_job_comes_last_so_that_its_pods_find_everything() -> None:
    assert [found["kind"] for found in attempt(job(), 1, INSTALLATION, prepared={})][-1] == "Job"


def test_everything_is_owned_and_labelled() -> None:
    for found in objects(3).values():
        metadata = found["metadata"]
        [owner] = metadata["ownerReferences"]
        assert (owner["kind"], owner["name"], owner["uid"]) == ("FineTuneJob", "demo", "uid-1")
        assert owner["controller"] is owner["blockOwnerDeletion"] is True
        assert metadata["namespace"] == "team"
        assert metadata["labels"]["finetune.dev/job"] == "demo"
        assert metadata["labels"]["app.kubernetes.io/managed-by"] == "finetune-operator"
    template = objects(3)["Job"]["spec"]["template"]
    assert template["metadata"]["labels"] == objects(3)["Job"]["metadata"]["labels"]
    assert template["metadata"]["labels"]["finetune.dev/attempt"] == "3"


def test_the_gang_is_one_indexed_job_that_nobody_else_restarts() -> None:
    found = objects(2, resources={"nodes": 3})["Job"]
    assert found["metadata"]["name"] == "demo-2"
    spec = {key: value for key, value in found["spec"].items() if key != "template"}
    assert spec == {
        "completionMode": "Indexed",
        "completions": 3,
        "parallelism": 3,
        "backoffLimit": 0,
        "podReplacementPolicy": "Failed",
    }
    assert pod_spec()["restartPolicy"] == "Never"


def test_pods_find_one_another_by_torchrun_s_own_variables() -> None:
    found = environment(resources={"nodes": 2, "gpusPerNode": 8})
    assert found["PET_NNODES"] == "2"
    assert found["PET_NPROC_PER_NODE"] == "8"
    assert found["PET_MASTER_ADDR"] == "demo-1-0.demo-gang"
    assert found["PET_MASTER_PORT"] == "29500"
    rank = found["PET_NODE_RANK"]["fieldRef"]["fieldPath"]
    assert rank == "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    assert found["FINETUNE_ATTEMPT"] == "1"
    assert found["FINETUNE_POD_NAME"] == {"fieldRef": {"fieldPath": "metadata.name"}}


def test_names_of_pods_resolve_before_pods_are_ready() -> None:
    service = objects()["Service"]
    assert service["metadata"]["name"] == pod_spec()["subdomain"] == "demo-gang"
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert service["spec"]["selector"] == {"finetune.dev/job": "demo"}


def test_only_pods_of_the_same_attempt_reach_the_pods_of_a_job() -> None:
    gang = {"matchLabels": {"finetune.dev/job": "demo", "finetune.dev/attempt": "3"}}
    assert objects(3)["NetworkPolicy"]["spec"] == {
        "podSelector": {"matchLabels": {"finetune.dev/job": "demo"}},
        "policyTypes": ["Ingress"],
        "ingress": [{"from": [{"podSelector": gang}]}],
    }
    template = objects(3)["Job"]["spec"]["template"]
    assert gang["matchLabels"].items() <= template["metadata"]["labels"].items()


def test_nobody_reaches_a_pod_that_is_alone_at_work() -> None:
    alone = (
        preparation(job(), INSTALLATION),
        merging(job(**MERGES), INSTALLATION, prepared={}, memory=None),
        publishing(job(**PUBLISH), INSTALLATION),
    )
    for _, policy, _ in alone:
        assert policy["metadata"]["name"] == objects()["NetworkPolicy"]["metadata"]["name"]
        assert policy["spec"] == {
            "podSelector": {"matchLabels": {"finetune.dev/job": "demo"}},
            "policyTypes": ["Ingress"],
            "ingress": [],
        }


def test_pods_meet_the_restricted_pod_security_standard() -> None:
    pod, [trainer] = pod_spec()["securityContext"], pod_spec()["containers"]
    assert pod["runAsNonRoot"] is True
    assert (pod["runAsUser"], pod["runAsGroup"], pod["fsGroup"]) == (65532, 65532, 65532)
    assert pod["fsGroupChangePolicy"] == "OnRootMismatch"
    assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert trainer["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {next(iter(set(volume) - {"name"})) for volume in pod_spec()["volumes"]} == {
        "configMap",
        "projected",
        "emptyDir",
        "persistentVolumeClaim",
    }


def test_pods_carry_no_credentials_but_the_report_token() -> None:
    assert pod_spec()["automountServiceAccountToken"] is False
    assert pod_spec()["enableServiceLinks"] is False
    [token] = [volume["projected"] for volume in pod_spec()["volumes"] if "projected" in volume]
    assert token == {
        "sources": [
            {"serviceAccountToken": {"audience": "finetune.dev", "expirationSeconds": 3600, "path": "token"}}
        ]
    }


def test_the_trainer_is_told_by_the_image_s_own_entrypoint() -> None:
    found = container()
    assert "command" not in found
    assert found["args"] == ["train", "--config", "/etc/finetune/run.json"]
    assert found["image"] == "registry.example/trainer:1"
    assert (found["terminationMessagePath"], found["terminationMessagePolicy"]) == (
        "/dev/termination-log",
        "FallbackToLogsOnError",
    )


def test_the_grace_period_is_the_job_s() -> None:
    assert pod_spec(failurePolicy={"gracePeriodSeconds": 33})["terminationGracePeriodSeconds"] == 33


def test_the_run_config_is_what_the_trainer_reads() -> None:
    found = objects()["ConfigMap"]
    assert found["immutable"] is True
    assert found["data"]["ca.crt"] == "CA\n"
    config = RunConfig.model_validate_json(found["data"]["run.json"])
    assert config.locations.model == "/volumes/model/tiny"
    assert config.locations.data == {"train": ["/volumes/data/train/train.jsonl"]}
    assert config.locations.storage == "/volumes/storage/demo"
    assert config.report_url == "https://operator.example:8443/v1/namespaces/team/finetunejobs/demo/report"
    assert config.uid == "uid-1"
    [volume] = [volume for volume in pod_spec()["volumes"] if "configMap" in volume]
    assert volume["configMap"]["name"] == found["metadata"]["name"]


def test_the_run_config_s_name_tells_its_content_apart() -> None:
    def name(**arguments: Any) -> str:
        found: str = objects(**arguments)["ConfigMap"]["metadata"]["name"]
        return found

    other_ca = Installation(INSTALLATION.trainer_image, INSTALLATION.report_url, "another CA\n")
    assert name(number=1) == name(number=2)
    assert len({name(), name(failurePolicy={"gracePeriodSeconds": 33}), name(installation=other_ca)}) == 3


def test_gpus_and_memory_are_limits_and_the_cpu_is_not() -> None:
    resources = {
        "gpusPerNode": 4,
        "gpuResourceName": "amd.com/gpu",
        "requests": {"cpu": "8", "memory": "64Gi"},
    }
    assert container(resources=resources)["resources"] == {
        "requests": {"cpu": "8", "memory": "64Gi"},
        "limits": {"memory": "64Gi", "amd.com/gpu": "4"},
    }
    assert container(resources={"gpusPerNode": 0})["resources"] == {}


def test_one_process_per_gpu_and_one_without() -> None:
    assert environment(resources={"gpusPerNode": 0})["PET_NPROC_PER_NODE"] == "1"


def test_a_model_that_is_split_has_one_process_and_all_gpus() -> None:
    split: dict[str, Any] = {
        "method": "lora",
        "lora": {"enableModelSplitting": True},
        "resources": {"nodes": 1, "gpusPerNode": 4},
    }
    assert environment(**split)["PET_NPROC_PER_NODE"] == "1"
    assert container(**split)["resources"]["limits"]["nvidia.com/gpu"] == "4"


@pytest.mark.parametrize(
    ("shared_memory", "expected"),
    [(None, {"medium": "Memory"}), ("8Gi", {"medium": "Memory", "sizeLimit": "8Gi"})],
)
def test_shared_memory(shared_memory: str | None, expected: dict[str, str]) -> None:
    resources = {"sharedMemory": shared_memory} if shared_memory else {}
    [volume] = [volume for volume in pod_spec(resources=resources)["volumes"] if volume["name"] == "shm"]
    assert volume["emptyDir"] == expected
    assert {"name": "shm", "mountPath": "/dev/shm"} in container()["volumeMounts"]
    assert {"name": "tmp", "mountPath": "/tmp"} in container()["volumeMounts"]


def claims(**spec: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The claims by pod volume, and the mounts of claims by path."""
    pod = pod_spec(**spec)
    volumes = {v["name"]: v["persistentVolumeClaim"] for v in pod["volumes"] if "persistentVolumeClaim" in v}
    [trainer] = pod["containers"]
    return volumes, {m["mountPath"]: m for m in trainer["volumeMounts"] if m["name"] in volumes}


def test_claims_that_are_only_read_are_attached_read_only() -> None:
    volumes, mounts = claims()
    assert volumes[mounts["/volumes/model"]["name"]] == {"claimName": "models", "readOnly": True}
    assert volumes[mounts["/volumes/data/train"]["name"]] == {"claimName": "data", "readOnly": True}
    assert volumes[mounts["/volumes/storage"]["name"]] == {"claimName": "runs"}
    assert mounts["/volumes/model"]["readOnly"] is mounts["/volumes/data/train"]["readOnly"] is True
    assert "readOnly" not in mounts["/volumes/storage"]


def test_a_claim_that_serves_several_parts_is_one_volume() -> None:
    volumes, mounts = claims(
        model={"volume": {"claimName": "all", "path": "m"}},
        dataset={"train": {"volume": {"claimName": "all", "path": "d.csv"}}},
        storage={"claimName": "all"},
    )
    assert list(volumes.values()) == [{"claimName": "all"}]
    assert [mount.get("readOnly", False) for mount in mounts.values()] == [False, True, True]


# Sources


def inputs(pod: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The volumes of a pod that are none of its own, each without its name, by where it is mounted."""
    volumes = {volume["name"]: {**volume, "name": None} for volume in pod["volumes"]}
    assert len(volumes) == len(pod["volumes"])
    assert all(len(name) <= 63 for name in volumes)
    [trainer] = pod["containers"]
    mounts = [
        mount for mount in trainer["volumeMounts"] if mount["mountPath"].startswith(("/vol", "/var/run/c"))
    ]
    assert all(mount.get("readOnly", False) is (mount["mountPath"] != "/volumes/storage") for mount in mounts)
    return {mount["mountPath"]: volumes[mount["name"]] for mount in mounts}


SETS = [
    {"name": "few", "configMap": {"name": "rows", "key": "few.jsonl"}},
    {"name": "a" * 32, "objectStore": {"uri": "gs://b/a.jsonl", "credentialsSecretRef": {"name": "gcs"}}},
    {"name": "open", "huggingFace": {"repo": "o/r", "path": "a.csv"}},
]
NETWORKED: dict[str, Any] = {
    "model": {"huggingFace": {"repo": "org/model", "tokenSecretRef": {"name": "hub", "key": "hf-token"}}},
    "dataset": {
        "train": {"objectStore": {"uri": "s3://b/t.jsonl", "credentialsSecretRef": {"name": "s3"}}},
        "validation": {"volume": {"claimName": "data", "path": "v.jsonl"}},
    },
    "evaluation": {"sets": SETS},
}
EVERYWHERE = {
    "/volumes/storage": {"name": None, "persistentVolumeClaim": {"claimName": "runs"}},
    "/volumes/data/validation": {
        "name": None,
        "persistentVolumeClaim": {"claimName": "data", "readOnly": True},
    },
    "/volumes/data/few": {
        "name": None,
        "configMap": {"name": "rows", "items": [{"key": "few.jsonl", "path": "few.jsonl"}]},
    },
}


def test_only_the_pod_that_downloads_has_the_secrets_for_that() -> None:
    hub = {
        "secretName": "hub",
        "items": [{"key": "hf-token", "path": "token"}],
        "defaultMode": 0o440,
    }
    assert inputs(prepare_pod(**NETWORKED)) == EVERYWHERE | {
        "/var/run/credentials/model": {"name": None, "secret": hub},
        "/var/run/credentials/train": {"name": None, "secret": {"secretName": "s3", "defaultMode": 0o440}},
        f"/var/run/credentials/{'a' * 32}": {
            "name": None,
            "secret": {"secretName": "gcs", "defaultMode": 0o440},
        },
    }
    assert inputs(pod_spec(**NETWORKED)) == EVERYWHERE
    [*_, merges] = merging(job(**MERGES | NETWORKED), INSTALLATION, prepared={}, memory=None)
    assert set(inputs(merges["spec"]["template"]["spec"])) == {"/volumes/storage"}


def test_what_is_downloaded_is_looked_for_on_the_storage_claim() -> None:
    found = objects(**NETWORKED)["ConfigMap"]
    locations = RunConfig.model_validate_json(found["data"]["run.json"]).locations
    downloads = "/volumes/storage/.downloads"
    assert locations.downloads == locations.model == downloads
    assert locations.data == {
        "train": [downloads],
        "validation": ["/volumes/data/validation/v.jsonl"],
        "few": ["/volumes/data/few/few.jsonl"],
        "a" * 32: [downloads],
        "open": [downloads],
    }


@pytest.mark.parametrize(
    ("path", "directory"), [({}, "/volumes/model"), ({"path": "a/./b"}, "/volumes/model/a/b")]
)
def test_a_model_in_an_image_is_a_volume_of_every_pod(path: dict[str, str], directory: str) -> None:
    model = {"image": {"reference": "registry.example/model@sha256:0", **path}}
    for pod in (prepare_pod(model=model), pod_spec(model=model)):
        assert inputs(pod)["/volumes/model"] == {
            "name": None,
            "image": {"reference": "registry.example/model@sha256:0"},
        }
    config = RunConfig.model_validate_json(objects(model=model)["ConfigMap"]["data"]["run.json"])
    assert config.locations.model == directory


def test_where_the_hub_is_is_told_to_those_who_talk_to_it() -> None:
    mirrored = replace(INSTALLATION, hub_endpoint="https://mirror.example", hub_offline=True)
    told = {"HF_ENDPOINT": "https://mirror.example", "HF_HUB_OFFLINE": "1"}
    talking = job(**NETWORKED | MERGES, publish={"objectStore": {"uri": "s3://b/out"}})
    for made, expected in (
        (preparation(talking, mirrored), told),
        (publishing(talking, mirrored), told),
        (preparation(talking, INSTALLATION), {}),
        (attempt(talking, 1, mirrored, prepared={}), {}),
        (merging(talking, mirrored, prepared={}, memory=None), {}),
    ):
        [trainer] = made[-1]["spec"]["template"]["spec"]["containers"]
        variables = {variable["name"]: variable.get("value") for variable in trainer["env"]}
        assert {name: value for name, value in variables.items() if name.startswith("HF_")} == expected


def test_every_pod_names_the_secrets_with_which_its_image_is_pulled() -> None:
    private = replace(INSTALLATION, pull_secrets=("registry", "mirror"))
    merged = job(**MERGES | PUBLISH)
    for made in (
        preparation(merged, private),
        attempt(merged, 1, private, prepared={}),
        merging(merged, private, prepared={}, memory=None),
        publishing(merged, private),
    ):
        pod = made[-1]["spec"]["template"]["spec"]
        assert pod["imagePullSecrets"] == [{"name": "registry"}, {"name": "mirror"}]
    assert "imagePullSecrets" not in pod_spec()


# The preparation


def prepare_objects(**spec: Any) -> dict[str, dict[str, Any]]:
    """Its manifests, by kind."""
    return {found["kind"]: found for found in preparation(job(**spec), INSTALLATION)}


def prepare_pod(**spec: Any) -> dict[str, Any]:
    found: dict[str, Any] = prepare_objects(**spec)["Job"]["spec"]["template"]["spec"]
    return found


GPUS = {"nodes": 2, "gpusPerNode": 8, "requests": {"cpu": "32", "memory": "400Gi"}}


def test_the_preparation_is_attempt_0_and_has_nothing_of_a_gang() -> None:
    found = prepare_objects(resources=GPUS)
    assert list(found) == ["ConfigMap", "NetworkPolicy", "Job"]
    assert found["Job"]["metadata"]["name"] == "demo-prepare"
    template = found["Job"]["spec"]["template"]
    assert template["metadata"]["labels"] == found["Job"]["metadata"]["labels"]
    assert template["metadata"]["labels"]["finetune.dev/attempt"] == "0"
    [trainer] = prepare_pod(resources=GPUS)["containers"]
    assert trainer["args"] == ["prepare", "--config", "/etc/finetune/run.json"]
    assert trainer["resources"] == {"requests": {"cpu": "1", "memory": "2Gi"}}
    assert "ports" not in trainer
    assert {variable["name"]: variable.get("value") for variable in trainer["env"]} == {
        "FINETUNE_ATTEMPT": "0",
        "FINETUNE_POD_NAME": None,
    }


def test_it_knows_the_gang_that_it_plans_for() -> None:
    config = RunConfig.model_validate_json(prepare_objects(resources=GPUS)["ConfigMap"]["data"]["run.json"])
    assert (config.world_size, config.use_gpu, config.prepared) == (16, True, {})


def test_its_job_tries_again_what_may_go_well_the_next_time() -> None:
    spec = prepare_objects(failurePolicy={"maxRestarts": 2})["Job"]["spec"]
    assert (spec["completions"], spec["parallelism"], spec["backoffLimit"]) == (1, 1, 2)
    assert "completionMode" not in spec
    assert prepare_pod()["restartPolicy"] == "Never"
    taken_away, told_to_stop, hopeless = spec["podFailurePolicy"]["rules"]
    assert taken_away == {
        "action": "Ignore",
        "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
    }
    assert (told_to_stop["action"], told_to_stop["onExitCodes"]["values"]) == ("Ignore", [75, 143])
    assert (hopeless["action"], hopeless["onExitCodes"]["values"]) == (
        "FailJob",
        [65, 71, 74, 76, 77, 78, 79],
    )
    for rule in (told_to_stop, hopeless):
        assert (rule["onExitCodes"]["containerName"], rule["onExitCodes"]["operator"]) == ("trainer", "In")


def test_its_pod_is_as_restricted_as_the_gang_s_and_sees_the_same_claims() -> None:
    gang, alone = pod_spec(), prepare_pod()
    for field in (
        "securityContext",
        "automountServiceAccountToken",
        "enableServiceLinks",
        "terminationGracePeriodSeconds",
    ):
        assert alone[field] == gang[field]
    [member], [single] = gang["containers"], alone["containers"]
    for field in ("image", "securityContext", "terminationMessagePath", "terminationMessagePolicy"):
        assert single[field] == member[field]
    assert [mount for mount in member["volumeMounts"] if mount not in single["volumeMounts"]] == [
        {"name": "shm", "mountPath": "/dev/shm"}
    ]


def test_the_gang_is_told_what_was_prepared_for_it() -> None:
    [config_map, *_] = attempt(job(), 1, INSTALLATION, prepared={"train": "abc"})
    assert RunConfig.model_validate_json(config_map["data"]["run.json"]).prepared == {"train": "abc"}
    assert config_map["metadata"]["name"] != prepare_objects()["ConfigMap"]["metadata"]["name"]


# The merging


def merge_objects(memory: int | None = None, **spec: Any) -> dict[str, dict[str, Any]]:
    """Its manifests, by kind."""
    objects = merging(job(**MERGES, **spec), INSTALLATION, prepared={"train": "abc"}, memory=memory)
    return {found["kind"]: found for found in objects}


def test_the_merging_is_one_more_pod_that_is_told_what_the_gang_was() -> None:
    found, [gang_config, *_] = (
        merge_objects(memory=12345),
        attempt(job(**MERGES), 1, INSTALLATION, prepared={"train": "abc"}),
    )
    assert found["ConfigMap"] == gang_config
    assert found["Job"]["metadata"]["name"] == "demo-merge"
    template = found["Job"]["spec"]["template"]
    assert template["metadata"]["labels"]["finetune.dev/attempt"] == "merge"
    [trainer] = template["spec"]["containers"]
    assert trainer["args"] == ["merge", "--config", "/etc/finetune/run.json"]
    assert "ports" not in trainer
    assert {variable["name"]: variable.get("value") for variable in trainer["env"]} == {
        "FINETUNE_ATTEMPT": "-1",
        "FINETUNE_POD_NAME": None,
    }


def test_it_tries_again_as_the_preparation_does_and_takes_no_data_with_it() -> None:
    prepares, merges = prepare_objects(**MERGES)["Job"]["spec"], merge_objects()["Job"]["spec"]
    assert merges | {"template": None} == prepares | {"template": None}
    assert [volume["name"] for volume in prepares["template"]["spec"]["volumes"]] == [
        *(volume["name"] for volume in merges["template"]["spec"]["volumes"]),
        "data-train",
    ]


@pytest.mark.parametrize(
    ("planned", "spec", "asked"),
    [(12345, {"resources": GPUS}, "12345"), (None, {"resources": GPUS}, "400Gi"), (None, {}, "2Gi")],
)
def test_it_asks_for_the_memory_that_is_planned_or_else_for_the_gang_s(
    planned: int | None, spec: dict[str, Any], asked: str
) -> None:
    [trainer] = merge_objects(planned, **spec)["Job"]["spec"]["template"]["spec"]["containers"]
    assert trainer["resources"] == {"requests": {"cpu": "1", "memory": asked}}
