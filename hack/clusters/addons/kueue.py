"""Kueue's controller manager as a process, with all that its chart installs but the pod that it would run in.

It listens on the loopback on which the API server runs, so the webhooks have addresses in place of a Service. With a
node that loopback is the node's own: see `enter` and `server`.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
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

NAMESPACE = "kueue-system"
_RELEASE = "kueue"  # what the chart's names begin with
_ACCOUNT = f"{NAMESPACE}:{_RELEASE}-controller-manager"
_CERTIFICATE = f"{_RELEASE}-webhook-server-cert"
_SERVICE = f"{_RELEASE}-webhook-service"
_AUTHORITY = "kueue-ca"  # the name that Kueue looks for in an authority of its own
# Goes through Kueue's webhooks, which admit it only once they serve, and are trusted.
_PROBE = {
    "apiVersion": "batch/v1",
    "kind": "Job",
    "metadata": {"name": "probe", "labels": {"kueue.x-k8s.io/queue-name": "probe"}},
    "spec": {
        "suspend": True,
        "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}},
    },
}


class Kueue(Running):
    """Kueue for the Jobs of a cluster, while the context lasts.

    with Kueue(plane.kubeconfig):
        ...
    """

    def __init__(
        self,
        kubeconfig: Path,
        *,
        enter: Sequence[str] = (),
        server: str | None = None,
        uninstall: bool = True,
    ) -> None:
        """`kubeconfig` is the administrator's.

        `enter` is the start of a command line that is to run where the API server does, and `server` its address
        there, if that is elsewhere. `uninstall` says whether what was installed is removed in the end, which takes a
        while.
        """
        self._admin = kubeconfig
        self._server = server
        self._uninstalls = uninstall
        self._directory = Path(tempfile.mkdtemp(prefix="kueue-"))
        certificates = self._directory / "certificates"
        self._pair = pki.KeyPair(certificates / "tls.crt", certificates / "tls.key")
        self._supervisor = Supervisor(self._directory, prefix=(*DIE_WITH_PARENT, *enter))
        [self._port] = free_ports(1)

    @property
    def log(self) -> Path:
        """What it says."""
        return self._supervisor.log(_RELEASE)

    def _start(self) -> None:
        """Install and start it, and wait until Jobs can be made.

        Raises:
            ClusterError: it ended, or does not serve; the message has the end of its log.
        """
        paths = binaries.ensure(["kueue", "helm", "kubectl"])
        self._write_files()
        self._kubectl(
            "apply", "--server-side", "--filename=-", stdin=charts.as_list(self._manifests(paths["helm"]))
        )
        config, rights = (self._directory / name for name in ("config.yaml", "kubeconfig"))
        self._supervisor.start(_RELEASE, [paths["kueue"], f"--config={config}", f"--kubeconfig={rights}"])
        try:
            wait_until("Kueue's webhooks serve", self._serves, self._supervisor.check_all)
        except ClusterError as error:
            raise ClusterError(f"{error}; {self._supervisor.log_tail(_RELEASE)}") from error

    def _stop(self) -> None:
        if self._uninstalls:
            self._uninstall()
        self._supervisor.stop([_RELEASE], grace=5)
        shutil.rmtree(self._directory)

    def _uninstall(self) -> None:
        """While it runs: its own objects go only when it lets them. Without its webhooks, Jobs and pods can be made."""
        selector = f"--selector=app.kubernetes.io/name={_RELEASE}"
        if self._supervisor.running(_RELEASE):
            self._kubectl("delete", "crds", selector, "--timeout=60s")
        webhooks = "mutatingwebhookconfigurations,validatingwebhookconfigurations"
        rights = "clusterroles,clusterrolebindings,roles,rolebindings"
        self._kubectl("delete", f"{webhooks},{rights}", selector, "--all-namespaces")
        self._kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=60s")

    def _serves(self) -> bool:
        try:
            self._kubectl("create", "--dry-run=server", "--filename=-", stdin=json.dumps(_PROBE))
        except ClusterError:
            return False
        return True

    def _write_files(self) -> None:
        certificates = self._pair.certificate.parent
        certificates.mkdir()
        hosts = (_AUTHORITY, f"{_SERVICE}.{NAMESPACE}.svc", "127.0.0.1")
        pki.write_self_signed(self._pair, hosts)
        (self._directory / "config.yaml").write_text(yaml.safe_dump(self._configuration(certificates)))
        charts.write_rights(self._directory / "kubeconfig", self._admin, _ACCOUNT, server=self._server)

    def _configuration(self, certificates: Path) -> Manifest:
        return {
            "apiVersion": "config.kueue.x-k8s.io/v1beta2",
            "kind": "Configuration",
            "namespace": NAMESPACE,
            "health": {"healthProbeBindAddress": "0"},  # it is asked through the API server
            "metrics": {"bindAddress": "0"},
            "leaderElection": {"leaderElect": False},
            "webhook": {"host": "127.0.0.1", "port": self._port, "certDir": str(certificates)},
            # Tells the API server which authority to trust; without it, Kueue insists on a certificate below /etc.
            "internalCertManagement": {
                "enable": True,
                "webhookServiceName": _SERVICE,
                "webhookSecretName": _CERTIFICATE,
            },
            "integrations": {"frameworks": ["batch/job"]},
            "featureGates": {"VisibilityOnDemand": False},
        }

    def _manifests(self, helm: Path) -> list[Manifest]:
        found = charts.rendered(helm, binaries.BINARIES["kueue"].manifests_path, _RELEASE, NAMESPACE)
        secret = charts.certificate_secret(_CERTIFICATE, NAMESPACE, self._pair)
        return [charts.namespace(NAMESPACE), secret, *charts.without_pod(found, webhook_port=self._port)]

    def _kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        return kubectl(self._admin, *arguments, stdin=stdin)
