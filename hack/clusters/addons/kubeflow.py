"""Kubeflow Trainer and JobSet, on which it builds, as processes: what their charts install but the pods.

They listen on the loopback on which the API server runs, and have the rights of their service accounts.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import yaml

from clusters import binaries, pki
from clusters.addons import charts
from clusters.addons.charts import Manifest
from clusters.addons.running import Running
from clusters.cluster import kubectl
from clusters.console import ClusterError
from clusters.ports import free_ports
from clusters.probe import wait_until
from clusters.processes import DIE_WITH_PARENT, Supervisor

_JOBSET, _TRAINER = "jobset", "kubeflow-trainer"
# Where each looks for its own Secret when it is not in a pod.
_NAMESPACES = {_JOBSET: "jobset-system", _TRAINER: "kubeflow-system"}
_ACCOUNTS = {
    _JOBSET: "jobset-system:jobset-controller",
    _TRAINER: "kubeflow-system:kubeflow-trainer-controller-manager",
}
_SERVICES = {_JOBSET: "jobset-webhook-service", _TRAINER: "kubeflow-trainer-controller-manager"}
_SECRETS = {_JOBSET: "jobset-webhook-server-cert", _TRAINER: "kubeflow-trainer-webhook-cert"}
# The names that they look for in authorities of their own.
_AUTHORITIES = ("jobset-ca", "kubeflow-trainer-ca")
# Both wait until this file is there, as a sign that the kubelet has mounted their Secret. They do not read it: the
# server of the webhooks takes the pair of files in the same place below TMPDIR.
_MOUNTED = Path("/tmp/k8s-webhook-server/serving-certs/tls.crt")
_RUNTIME = "probe"
_PROBES = (
    {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {"name": "probe", "namespace": "default"},
        "spec": {
            "suspend": True,
            "replicatedJobs": [
                {
                    "name": "node",
                    "template": {
                        "spec": {
                            "template": {
                                "spec": {
                                    "restartPolicy": "Never",
                                    "containers": [{"name": "node", "image": "i"}],
                                }
                            }
                        }
                    },
                }
            ],
        },
    },
    {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "ClusterTrainingRuntime",
        "metadata": {"name": _RUNTIME},
        "spec": {
            "template": {
                "spec": {
                    "replicatedJobs": [
                        {
                            "name": "node",
                            "template": {
                                "spec": {
                                    "template": {"spec": {"containers": [{"name": "node", "image": "i"}]}}
                                }
                            },
                        }
                    ]
                }
            },
        },
    },
)


class Kubeflow(Running):
    """Kubeflow Trainer for a control plane of one's own, while the context lasts; nothing is uninstalled.

    with ControlPlane() as plane, Kubeflow(plane.kubeconfig):
        ...
    """

    def __init__(self, kubeconfig: Path, *, requests_per_second: int | None = None) -> None:
        """`kubeconfig` is the administrator's.

        `requests_per_second` is what JobSet may ask of the API server, in place of what its chart says. Trainer has no
        option for that: it is held to the 20 a second (30 at once) of its libraries.
        """
        self._admin = kubeconfig
        self._requests_per_second = requests_per_second
        self._directory = Path(tempfile.mkdtemp(prefix="kubeflow-"))
        certificates = self._directory / "k8s-webhook-server" / "serving-certs"
        self._pair = pki.KeyPair(certificates / "tls.crt", certificates / "tls.key")
        prefix = (*DIE_WITH_PARENT, "env", f"TMPDIR={self._directory}")
        self._supervisor = Supervisor(self._directory, prefix=prefix)
        self._ports = dict(zip(_NAMESPACES, free_ports(2), strict=True))

    @property
    def pids(self) -> list[int]:
        """The two processes.

        Raises:
            ClusterError: one of them has ended.
        """
        self._supervisor.check_all()
        return [record.pid for name in _NAMESPACES if (record := self._supervisor.running(name))]

    def _start(self) -> None:
        """Install and start both, and wait until their objects can be made.

        Raises:
            ClusterError: one ended, or does not serve; the message has the end of its log.
        """
        paths = binaries.ensure([*_NAMESPACES, "helm", "kubectl"])
        self._pair.certificate.parent.mkdir(parents=True)
        services = [f"{_SERVICES[name]}.{_NAMESPACES[name]}.svc" for name in _NAMESPACES]
        pki.write_self_signed(self._pair, (*_AUTHORITIES, *services, "127.0.0.1"))
        _MOUNTED.parent.mkdir(parents=True, exist_ok=True)
        _MOUNTED.touch()
        for name in _NAMESPACES:
            charts.write_rights(self._rights(name), self._admin, _ACCOUNTS[name])
            self._install(name, paths["helm"])
        # What is not known yet when they start, they take to be missing, and end.
        self._kubectl("wait", "--for=condition=established", "crds", "--all", "--timeout=60s")
        port = self._ports[_TRAINER]
        self._supervisor.start(
            _TRAINER,
            [
                paths[_TRAINER],
                f"--kubeconfig={self._rights(_TRAINER)}",
                f"--webhook-server-port={port}",
                "--health-probe-bind-address=0",
            ],
        )
        config = f"--config={self._directory / 'jobset.yaml'}"
        # As its Deployment starts it.
        arguments = [config, f"--kubeconfig={self._rights(_JOBSET)}", "--zap-log-level=2"]
        self._supervisor.start(_JOBSET, [paths[_JOBSET], *arguments])
        try:
            wait_until("the webhooks of JobSet and Trainer serve", self._serve, self._supervisor.check_all)
        except ClusterError as error:
            tails = "; ".join(self._supervisor.log_tail(name) for name in _NAMESPACES)
            raise ClusterError(f"{error}; {tails}") from error

    def _stop(self) -> None:
        self._supervisor.stop(_NAMESPACES, grace=5)
        _MOUNTED.unlink(missing_ok=True)
        shutil.rmtree(self._directory)

    def _serve(self) -> bool:
        try:
            for probe in _PROBES:
                self._kubectl("create", "--dry-run=server", "--filename=-", stdin=json.dumps(probe))
        except ClusterError:
            return False
        return True

    def _rights(self, name: str) -> Path:
        return self._directory / f"{name}.kubeconfig"

    def _install(self, name: str, helm: Path) -> None:
        found = charts.rendered(helm, self._chart(name), name, _NAMESPACES[name])
        if name == _JOBSET:
            self._write_configuration(found)
        secret = charts.certificate_secret(_SECRETS[name], _NAMESPACES[name], self._pair)
        installed = charts.without_pod(found, webhook_port=self._ports[name])
        manifests = [charts.namespace(_NAMESPACES[name]), secret, *installed]
        self._kubectl("apply", "--server-side", "--filename=-", stdin=charts.as_list(manifests))

    def _chart(self, name: str) -> Path:
        """A chart as helm takes it: Trainer's names JobSet's, which is installed beside it, and not part of it."""
        chart = self._directory / "charts" / name
        shutil.copytree(binaries.BINARIES[name].manifests_path, chart)
        description = yaml.safe_load((chart / "Chart.yaml").read_text())
        description.pop("dependencies", None)
        (chart / "Chart.yaml").write_text(yaml.safe_dump(description))
        return chart

    def _write_configuration(self, manifests: list[Manifest]) -> None:
        """JobSet's own configuration, but that it serves on a port of ours, and nothing else."""
        [config_map] = [manifest for manifest in manifests if manifest["kind"] == "ConfigMap"]
        [text] = config_map["data"].values()
        content = yaml.safe_load(text) | {
            "webhook": {"host": "127.0.0.1", "port": self._ports[_JOBSET]},
            "metrics": {"bindAddress": "0"},
            "health": {"healthProbeBindAddress": "0"},
            # There is one process, and no pod to ask for the namespace of a Lease.
            "leaderElection": {"leaderElect": False},
        }
        if self._requests_per_second is not None:
            limits = {"qps": self._requests_per_second, "burst": self._requests_per_second}
            content["clientConnection"] = limits
        (self._directory / "jobset.yaml").write_text(yaml.safe_dump(content))

    def _kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        return kubectl(self._admin, *arguments, stdin=stdin)
