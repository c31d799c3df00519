"""The commands that read a real API server, as an administrator and as somebody who may see FineTuneJobs only."""

import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from fcntl import ioctl
from pathlib import Path

import pytest
import yaml

from cluster.kube import Kube, Namespace, eventually
from cluster.operators import Operator
from finetune_api.curve import Curve
from world import INLINE, checkpoint, report

FINETUNE = str(Path(sys.executable).with_name("finetune"))
PATIENCE = 60.0
CURVE = Curve(
    steps=[1, 2, 3],
    loss=[3.0, 2.5, 2.0],
    learning_rate=[1e-6, 2e-6, 1e-6],
    tokens_per_second=[100.0, 110.0, 105.0],
    validation_steps=[0, 3],
    validation_loss=[3.1, 2.2],
)


def finetune(
    namespace: Namespace, *arguments: str, kubeconfig: Path | None = None
) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"KUBECONFIG": str(kubeconfig or namespace.kube.kubeconfig)}
    command = [FINETUNE, *arguments, "-n", namespace.name]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE
    )


@pytest.fixture
def trained(namespace: Namespace, operator: Operator) -> Namespace:
    """A namespace with a job whose gang trains, and has told of it."""
    namespace.submit(dataset=INLINE)
    pods = namespace.pods()
    namespace.run_pods(pods)
    told = report(step=3, curve=CURVE, checkpoints=[checkpoint(2, "resume"), checkpoint(3)])
    assert operator.post(namespace.name, "demo", told, token=namespace.token(pods[0]))[0] == 200
    namespace.in_phase("Running")
    return namespace


@pytest.fixture
def onlooker(namespace: Namespace, tmp_path: Path) -> Path:
    """A kubeconfig of somebody who may see FineTuneJobs in the namespace, and nothing else."""
    rules = [
        {"apiGroups": ["finetune.dev"], "resources": ["finetunejobs"], "verbs": ["get", "list", "watch"]}
    ]
    roles = "/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/"
    account = {"kind": "ServiceAccount", "name": "onlooker", "namespace": namespace.name}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "onlooker"}
    namespace.create("/api/v1/namespaces/{namespace}/serviceaccounts", {"metadata": {"name": "onlooker"}})
    namespace.create(roles + "roles", {"metadata": {"name": "onlooker"}, "rules": rules})
    namespace.create(
        roles + "rolebindings", {"metadata": {"name": "onlooker"}, "subjects": [account], "roleRef": role}
    )
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    path = f"/api/v1/namespaces/{namespace.name}/serviceaccounts/onlooker/token"
    token = namespace.kube.request("POST", path, request)["status"]["token"]
    config = yaml.safe_load(namespace.kube.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": token}
    config["contexts"][0]["context"]["namespace"] = namespace.name
    kubeconfig = tmp_path / "onlooker"
    kubeconfig.write_text(yaml.safe_dump(config))
    return kubeconfig


def test_what_holds_pods_up_is_explained_by_the_events_of_their_job(
    namespace: Namespace, operator: Operator
) -> None:
    quota = {"metadata": {"name": "nothing"}, "spec": {"hard": {"pods": "0"}}}
    namespace.create("/api/v1/namespaces/{namespace}/resourcequotas", quota)
    namespace.submit(dataset=INLINE)
    namespace.in_phase("Starting")

    def told() -> dict[str, object]:
        found: dict[str, object] = json.loads(finetune(namespace, "explain", "demo", "-o", "json").stdout)
        assert found["reason"] == "FailedCreate", found
        return found

    explained = eventually(told)
    assert "exceeded quota: nothing" in str(explained["summary"])
    assert "ask for less (spec.resources)" in str(explained["whatToDo"])
    assert explained["notSeen"] == []


def test_pods_without_a_node_are_explained_one_by_one(namespace: Namespace, operator: Operator) -> None:
    namespace.submit(dataset=INLINE)
    first, _ = namespace.pods()
    words = "0/2 nodes are available: 2 Insufficient nvidia.com/gpu."
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": words}
    namespace.set_pod(first, "Pending", conditions=[condition])

    def told() -> str:
        shown = finetune(namespace, "explain", "demo").stdout
        assert shown.startswith("finetunejob/demo is Starting: 0 of 2 pods run; ")
        return shown

    shown = eventually(told)
    assert f"\n  pod {first}: Unschedulable: {words}\n" in shown
    logs = finetune(namespace, "logs", "demo")
    assert logs.returncode == 1
    assert f"{first}: its container has not started: Unschedulable\n" in logs.stderr
    assert "Error: no pod of attempt 1 has a log" in logs.stderr


def test_a_job_is_plotted_and_its_checkpoints_listed_from_its_status(
    trained: Namespace, tmp_path: Path
) -> None:
    drawn = finetune(trained, "plot", "demo")
    assert (drawn.returncode, drawn.stderr) == (0, "")
    assert "loss per token   ━ demo   ● validation" in drawn.stdout
    image = tmp_path / "demo.svg"
    assert finetune(trained, "plot", "demo", "-o", str(image)).returncode == 0
    assert image.stat().st_size > 1000
    listed = json.loads(finetune(trained, "checkpoints", "demo", "-o", "json").stdout)
    assert [(one["step"], one.get("next", False)) for one in listed["checkpoints"]] == [(2, True), (3, False)]
    young = finetune(trained, "plot", "missing")
    assert (young.returncode, "there is no finetunejob/missing" in young.stderr) == (1, True)


def test_what_somebody_may_not_see_is_said_and_the_rest_is_shown(trained: Namespace, onlooker: Path) -> None:
    explained = finetune(trained, "explain", "demo", kubeconfig=onlooker)
    assert explained.returncode == 0, explained.stderr
    assert explained.stdout.startswith("finetunejob/demo is Running: training\n")
    hidden = explained.stdout.partition("Not seen\n")[2]
    for resource in ("jobs", "pods"):
        assert f"you may not list {resource} in namespace {trained.name}" in hidden
    assert finetune(trained, "checkpoints", "demo", kubeconfig=onlooker).returncode == 0
    elsewhere = finetune(Namespace(trained.kube, "default"), "explain", "demo", kubeconfig=onlooker)
    assert (elsewhere.returncode, elsewhere.stdout) == (1, "")
    assert elsewhere.stderr.startswith("Error: you may not see finetunejobs in namespace default")
    logs = finetune(trained, "logs", "demo", kubeconfig=onlooker)
    assert logs.returncode == 1
    assert "you may not list pods" in logs.stderr
    assert "it printed is on its storage claim, in demo/logs/attempt-1/node-R.log" in logs.stderr


def test_the_log_of_an_attempt_whose_pods_are_gone_is_what_the_status_has_of_it(
    namespace: Namespace, operator: Operator
) -> None:
    namespace.submit(dataset=INLINE)
    pods = namespace.pods()
    namespace.run_pods(pods)
    namespace.end_pod(pods[1], 78, "RuntimeError: broken\nno file train.jsonl")
    namespace.in_phase("Failed")
    eventually(lambda: not namespace.all("/api/v1/namespaces/{namespace}/pods"), seconds=PATIENCE)
    shown = finetune(namespace, "logs", "demo")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout == "RuntimeError: broken\nno file train.jsonl\n"
    assert "no pod of attempt 1 is there; what it printed is on its storage claim" in shown.stderr
    none = finetune(namespace, "logs", "demo", "--attempt", "2")
    assert (none.returncode, none.stderr) == (1, "Error: there is no attempt 2: there are 1\n")


class Terminal:
    """`finetune watch` on a terminal of a given width."""

    def __init__(self, namespace: Namespace, kubeconfig: Path, *, columns: int) -> None:
        master, slave = pty.openpty()
        ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        self._master = master
        environment = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES")}
        self.process = subprocess.Popen(
            [FINETUNE, "watch", "demo", "-n", namespace.name],
            env=environment | {"KUBECONFIG": str(kubeconfig), "TERM": "xterm"},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            # Whoever started the tests in the background had them ignore Ctrl-C; a terminal's command does not.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        os.close(slave)
        self.shown = ""

    def until(self, words: str) -> None:
        """Read on until this is on the terminal."""
        deadline = time.monotonic() + PATIENCE
        while words not in self.shown:
            assert time.monotonic() < deadline, self.shown
            if select.select([self._master], [], [], 1)[0]:
                self.shown += os.read(self._master, 65536).decode(errors="replace")

    def close(self) -> int:
        """Ctrl-C; returns the exit code."""
        self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(timeout=PATIENCE)
        finally:
            os.close(self._master)


def test_on_a_terminal_the_job_is_in_view_with_its_pods(
    trained: Namespace, kube: Kube, onlooker: Path
) -> None:
    watching = Terminal(trained, kube.kubeconfig, columns=100)
    for words in ("3/36 (8%)", "█▅▁", "newest weights of step 3", "demo-1-1"):
        watching.until(words)
    assert watching.close() == 130
    narrow = Terminal(trained, onlooker, columns=50)
    narrow.until("you may not list pods")
    assert narrow.close() == 130
