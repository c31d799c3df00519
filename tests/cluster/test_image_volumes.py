"""A model in an OCI image: mounted where the API server has image volumes, and refused with the reason where not."""

from pathlib import Path
from typing import Any

from cluster.kube import FINETUNEJOBS, JOBS, Kube, Namespace, eventually
from cluster.operators import Operator
from clusters.local import ControlPlane

REFERENCE = "registry.example/model:1"
MODEL: dict[str, Any] = {"model": {"image": {"reference": REFERENCE}}}


def mounted(namespace: Namespace, job: str) -> dict[str, Any]:
    """The volume of the model in a Job's pods, as the API server has it."""
    pod = namespace.get(JOBS, job)["spec"]["template"]["spec"]
    [found] = [volume for volume in pod["volumes"] if volume["name"] == "model"]
    [mount] = [mount for mount in pod["containers"][0]["volumeMounts"] if mount["name"] == "model"]
    assert mount == {"name": "model", "mountPath": "/volumes/model", "readOnly": True}
    image: dict[str, Any] = found["image"]
    return image


def test_without_image_volumes_nothing_is_made_and_the_status_tells_why(
    namespace: Namespace, operator: Operator
) -> None:
    namespace.submit(**MODEL)

    def stalled() -> str:
        conditions = namespace.get(FINETUNEJOBS, "demo")["status"]["conditions"]
        [told] = [found for found in conditions if found["type"] == "Stalled"]
        assert (told["status"], told["reason"]) == ("True", "Refused")
        message: str = told["message"]
        return message

    assert "spec.model.image: the API server has no image volumes" in eventually(stalled)
    assert not namespace.belongings()


def test_with_image_volumes_the_model_is_mounted(tmp_path: Path) -> None:
    with ControlPlane("--feature-gates=ImageVolume=true") as plane:
        kube = Kube(plane.kubeconfig)
        kube.install_crd()
        operator = Operator(plane.kubeconfig, tmp_path)
        operator.start()
        with kube.namespace() as namespace:
            namespace.submit(**MODEL)
            namespace.in_phase("Preparing")
            expected = {"reference": REFERENCE, "pullPolicy": "IfNotPresent"}
            assert eventually(lambda: mounted(namespace, "demo-prepare")) == expected
        assert operator.stop() == 0, operator.log.read_text()
