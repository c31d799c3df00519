"""An S3 server in a pod beside the jobs, which wants credentials and whose plug can be pulled."""

import json
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path
from typing import Any, cast
from xmlrpc.client import ServerProxy

import boto3
from packaging.requirements import Requirement

from deploy import NAMESPACE, RELEASE, run
from e2e.namespace import Namespace, kubectl
from e2e.object_store_pod import CONTROL_PORT, DIRECT_PORT, PORT
from plug import Plug

NAME = "s3"
BUCKET = "bucket"
_PROGRAM = Path(__file__).with_name("object_store_pod.py")
_MAY_DO_ANYTHING_THERE = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}],
}


@dataclass(frozen=True)
class ObjectStore:
    """A server of the S3 protocol with one bucket, whose objects outlast a pulled plug."""

    client: Any
    """boto3's, past the plug."""
    plug: Plug
    """Between the server and the pods; this is its remote control."""
    credentials: dict[str, str]
    """What a Secret must have, so that pods find the server and may do anything there."""

    def put(self, key: str, content: bytes) -> str:
        """Make an object; returns its uri."""
        self.client.put_object(Bucket=BUCKET, Key=key, Body=content)
        return f"s3://{BUCKET}/{key}"

    def objects(self, prefix: str) -> dict[str, bytes]:
        """What lies below a prefix, by what follows it."""
        listed = self.client.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])
        return {
            one["Key"].removeprefix(prefix): self.client.get_object(Bucket=BUCKET, Key=one["Key"])[
                "Body"
            ].read()
            for one in listed
        }


@contextmanager
def object_store(namespace: Namespace) -> Iterator[ObjectStore]:
    """An ObjectStore that pods of the namespace can reach, with the moto of this machine."""
    folder = namespace.claim(NAME)
    _copy_packages(folder, "moto[s3]", "flask", "flask-cors")
    for file in (_PROGRAM, Path(__file__).parent.with_name("plug.py")):
        shutil.copy(file, folder)
    for manifest in (_pod(_trainer_image()), _SERVICE):
        namespace.apply(manifest)
    namespace.kubectl("wait", f"pod/{NAME}", "--for=condition=Ready", "--timeout=300s")
    with _forwarded(namespace, DIRECT_PORT) as direct, _forwarded(namespace, CONTROL_PORT) as control:
        key = _made_key(direct)
        client = boto3.client(
            "s3",
            endpoint_url=direct,
            region_name="us-east-1",
            aws_access_key_id=key["AccessKeyId"],
            aws_secret_access_key=key["SecretAccessKey"],
        )
        client.create_bucket(Bucket=BUCKET)
        yield ObjectStore(
            client,
            cast(Plug, ServerProxy(control, allow_none=True)),
            {
                "AWS_ACCESS_KEY_ID": key["AccessKeyId"],
                "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"],
                "AWS_REGION": "us-east-1",
                "AWS_ENDPOINT_URL": f"http://{NAME}.{namespace.name}.svc:{PORT}",
            },
        )


def secret(name: str, values: dict[str, str]) -> dict[str, Any]:
    """A Secret."""
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": values}


def stored(key: str, credentials: str) -> dict[str, Any]:
    """What is in the store, in the words of a spec; the Secret `credentials` tells how to get there."""
    return {"objectStore": {"uri": f"s3://{BUCKET}/{key}", "credentialsSecretRef": {"name": credentials}}}


def _trainer_image() -> str:
    """The image in which the installed operator has jobs run: it has a Python, and is on the node."""
    values = json.loads(
        run("hack/cluster", "helm", "get", "values", RELEASE, "--namespace", NAMESPACE, "--output", "json")
    )
    image = values["trainer"]["image"]
    return f"{image['repository']}:{image['tag']}"


def _made_key(endpoint: str) -> dict[str, str]:
    """The key of a user who may do anything with S3; from then on the server lets in nobody else."""
    anybody = {"aws_access_key_id": "anybody", "aws_secret_access_key": "anybody"}
    iam = boto3.client("iam", endpoint_url=endpoint, region_name="us-east-1", **anybody)
    iam.create_user(UserName="job")
    iam.put_user_policy(UserName="job", PolicyName="all", PolicyDocument=json.dumps(_MAY_DO_ANYTHING_THERE))
    key: dict[str, str] = iam.create_access_key(UserName="job")["AccessKey"]
    # moto's own word for it: how many requests more are answered without a look at who asks.
    lock = urllib.request.Request(f"{endpoint}/moto-api/reset-auth", b"0", {"Content-Type": "text/plain"})
    urllib.request.urlopen(lock).close()
    return key


def _copy_packages(folder: Path, *requirements: str) -> None:
    """Copy installed packages, and those that they need, into a folder that pods can have on their PYTHONPATH."""
    copied: set[str] = set()
    wanted = [Requirement(one) for one in requirements]
    while wanted:
        requirement = wanted.pop()
        if requirement.name in copied:
            continue
        copied.add(requirement.name)
        package = distribution(requirement.name)
        for file in package.files or []:
            if ".." not in file.parts and "__pycache__" not in file.parts:
                target = folder / file
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file.locate(), target)
        extras = requirement.extras or {""}
        for needed in map(Requirement, package.requires or []):
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras):
                wanted.append(needed)


@contextmanager
def _forwarded(namespace: Namespace, port: int) -> Iterator[str]:
    """The URL of a port of the pod, here."""
    command = [*kubectl(), "--namespace", namespace.name, "port-forward", f"pod/{NAME}", f":{port}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as forwarding:
        try:
            assert forwarding.stdout is not None
            # "Forwarding from 127.0.0.1:40123 -> 9001"
            here = forwarding.stdout.readline().split()[2]
            yield f"http://{here}"
        finally:
            forwarding.terminate()


def _pod(image: str) -> dict[str, Any]:
    container = {
        "name": NAME,
        "image": image,
        "command": ["python", f"/packages/{_PROGRAM.name}"],
        "env": [
            {"name": "PYTHONPATH", "value": "/packages"},
            # The bucket is in the path, whatever the host is called.
            {"name": "S3_IGNORE_SUBDOMAIN_BUCKETNAME", "value": "true"},
        ],
        "readinessProbe": {"tcpSocket": {"port": CONTROL_PORT}, "periodSeconds": 1},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "packages", "mountPath": "/packages", "readOnly": True},
            # Where large objects are.
            {"name": "tmp", "mountPath": "/tmp"},
        ],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": NAME, "labels": {"app": NAME}},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [container],
            "volumes": [
                {"name": "packages", "persistentVolumeClaim": {"claimName": NAME, "readOnly": True}},
                {"name": "tmp", "emptyDir": {}},
            ],
        },
    }


_SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": NAME},
    "spec": {"selector": {"app": NAME}, "ports": [{"port": PORT}]},
}
