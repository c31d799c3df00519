"""A control plane without nodes: etcd, API server and controller manager on loopback, in seconds, without root."""

from __future__ import annotations

import json
import shutil
import ssl
import tempfile
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from clusters import binaries, kubeconfig
from clusters.local.layout import ADMIN, CONTROLLER_MANAGER, Layout
from clusters.pki import Identity
from clusters.probe import ApiProbe, wait_until
from clusters.processes import DIE_WITH_PARENT, Supervisor

IDENTITIES = (ADMIN, CONTROLLER_MANAGER)
COMPONENTS = ("controller-manager", "apiserver", "etcd")  # in the order in which they are stopped


class ControlPlane:
    """A throw-away Kubernetes API for tests, with working Jobs, garbage collection and service accounts.

    Pods are created but stay Pending: there is no scheduler and no node. Everything lies in a temporary folder and
    listens on free ports of 127.0.0.1, so several can run side by side. The processes end with this one.

        with ControlPlane() as plane:
            subprocess.run(["kubectl", "--kubeconfig", plane.kubeconfig, "get", "namespaces"])
    """

    def __init__(self, *api_server_options: str, controller_manager_options: Sequence[str] = ()) -> None:
        """The options are given to the API server and to the controller manager besides their own."""
        self._api_server_options = api_server_options
        self._controller_manager_options = controller_manager_options
        self._layout: Layout | None = None
        self._supervisor: Supervisor | None = None
        self._paths: Mapping[str, Path] = {}

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig, while the control plane runs."""
        if self._layout is None:
            raise RuntimeError("the control plane has not been started")
        return self._layout.kubeconfig

    def start(self) -> None:
        """Start everything (after building it, where the cache lacks it) and wait until it serves.

        Raises:
            ClusterError: a component ended or did not become ready; the message has the end of its log.
        """
        if self._layout is not None:
            raise RuntimeError("the control plane has already been started")
        self._paths = binaries.ensure(binaries.CONTROL_PLANE)
        self._layout = Layout.on_loopback(Path(tempfile.mkdtemp(prefix="control-plane-")))
        self._supervisor = Supervisor(self._layout.directory, prefix=DIE_WITH_PARENT)
        try:
            prepare(self._layout, IDENTITIES, admin_port=self._layout.api_port)
            self._run()
        except BaseException:
            self.stop()
            raise

    def restart(self, *components: str, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Kill some of COMPONENTS, start them again with what they have stored, and wait until all serve.

        Raises:
            ClusterError: a component ended or did not become ready; the message has the end of its log.
        """
        if self._supervisor is None:
            raise RuntimeError("the control plane has not been started")
        self._supervisor.stop(components, grace=0)
        try:
            meanwhile()
        finally:
            self._run()

    def compact(self) -> None:
        """Have etcd forget every version of every object but the newest one."""
        if self._layout is None:
            raise RuntimeError("the control plane has not been started")
        port, client = self._layout.etcd_port, self._layout.pki.pair("apiserver-etcd-client")
        context = ssl.create_default_context(cafile=str(self._layout.pki.etcd_ca))
        context.load_cert_chain(client.certificate, client.key)

        def ask(path: str, body: dict[str, object]) -> dict[str, Any]:
            url = f"https://127.0.0.1:{port}/v3/{path}"
            request = urllib.request.Request(url, json.dumps(body).encode())
            with urllib.request.urlopen(request, timeout=10, context=context) as answer:
                found: dict[str, Any] = json.load(answer)
            return found

        revision = ask("maintenance/status", {})["header"]["revision"]
        ask("kv/compaction", {"revision": revision, "physical": True})

    def _run(self) -> None:
        assert self._layout is not None
        assert self._supervisor is not None
        run(
            self._layout,
            self._supervisor,
            self._paths,
            admin_port=self._layout.api_port,
            api_server_options=self._api_server_options,
            controller_manager_options=self._controller_manager_options,
        )

    def stop(self) -> None:
        """End the processes and remove their folder; does nothing when not started."""
        if self._layout is None or self._supervisor is None:
            return
        # Nothing of it is kept, so there is nothing to shut down in good order.
        self._supervisor.stop(COMPONENTS, grace=0)
        shutil.rmtree(self._layout.directory)
        self._layout = self._supervisor = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def prepare(layout: Layout, identities: Sequence[Identity], *, admin_port: int) -> None:
    """Write the certificates, and a kubeconfig for each of `identities`.

    Components reach the API server beside them at `layout.api_port`; the administrator, who may be outside of the
    cluster's network namespace, at `admin_port`.
    """
    layout.pki.create(identities, layout.api_hosts)
    for identity in identities:
        administrator = identity is ADMIN
        file = layout.kubeconfig if administrator else layout.component_kubeconfig(identity)
        port = admin_port if administrator else layout.api_port
        kubeconfig.write(
            file,
            kubeconfig.render(
                cluster=layout.directory.name,
                server=f"https://127.0.0.1:{port}",
                ca=layout.pki.cluster_ca,
                user=identity.user,
                client=layout.pki.pair(identity.name),
            ),
        )


def admin_probe(layout: Layout, admin_port: int) -> ApiProbe:
    """Asks the API server, as the administrator."""
    return ApiProbe(admin_port, layout.pki.cluster_ca, layout.pki.pair(ADMIN.name))


def run(
    layout: Layout,
    supervisor: Supervisor,
    paths: Mapping[str, Path],
    *,
    admin_port: int,
    api_server_options: Sequence[str] = (),
    controller_manager_options: Sequence[str] = (),
) -> None:
    """Start what does not run of etcd, API server and controller manager, and wait until all of it serves."""
    supervisor.start("etcd", layout.etcd(paths["etcd"]))
    supervisor.start("apiserver", [*layout.api_server(paths["kube-apiserver"]), *api_server_options])
    probe = admin_probe(layout, admin_port)
    wait_until("the API server is ready", lambda: probe.answers("/readyz"), supervisor.check_all)
    manager = layout.controller_manager(paths["kube-controller-manager"])
    supervisor.start("controller-manager", [*manager, *controller_manager_options])
    account = "/api/v1/namespaces/default/serviceaccounts/default"
    wait_until("the controllers work", lambda: probe.answers(account), supervisor.check_all)
