"""`finetune watch` follows a FineTuneJob through the API, on whatever the operator writes into its status."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.kube import FINETUNEJOBS, MERGE, Kube, Namespace
from clusters.local import ControlPlane
from finetune_operator.lifecycle.publishing import MAX_TRIES
from world import INLINE, OUTPUT, PUBLISH, World, checkpoint, published, report

FINETUNE = str(Path(sys.executable).with_name("finetune"))
PATIENCE = 60


@pytest.fixture(scope="module")
def kube() -> Iterator[Kube]:
    """An API server of these tests' own: they write what the operator writes, and the other one has a real operator."""
    with ControlPlane() as plane:
        kube = Kube(plane.kubeconfig)
        kube.install_crd()
        yield kube


def watch(namespace: Namespace, name: str, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [FINETUNE, "watch", name, "-n", namespace.name, *options],
        env=os.environ | {"KUBECONFIG": str(namespace.kube.kubeconfig)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Whoever started the tests in the background had them ignore Ctrl-C; a terminal's command does not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def write(namespace: Namespace, name: str, world: World) -> None:
    """Write the world's status, as the operator does."""
    path = namespace.path(FINETUNEJOBS, name) + "/status"
    namespace.kube.request("PATCH", path, {"status": world.status.to_wire()}, MERGE)


def read(watching: subprocess.Popen[str], lines: int) -> list[str]:
    """The next lines, as soon as they are there."""
    assert watching.stdout is not None
    return [watching.stdout.readline() for _ in range(lines)]


def words(lines: list[str]) -> list[str]:
    """What each line is about; the time comes first."""
    return [line.split()[1] for line in lines]


def test_what_happens_is_told_as_it_happens_and_success_exits_0(namespace: Namespace) -> None:
    namespace.submit("good")
    watching = watch(namespace, "good")
    world = World(spec={"dataset": INLINE})
    world.settle()
    write(namespace, "good", world)
    # Each is read before the next status is written: the job is followed, not summed up at the end.
    assert words(read(watching, 2)) == ["Accepted", "Starting"]
    world.run_pods()
    world.post(report(step=3, checkpoints=[checkpoint(2)]))
    world.settle()
    write(namespace, "good", world)
    saved, running, progress = read(watching, 3)
    assert words([saved, running, progress]) == ["CheckpointSaved", "Running", "Progress"]
    assert "3/36 (8%)  loss 1.9700" in progress
    world.succeed(report(sequence=2, step=36, output=OUTPUT, checkpoints=[checkpoint(2), checkpoint(36)]))
    world.settle()
    write(namespace, "good", world)
    rest, complaints = watching.communicate(timeout=PATIENCE)
    assert (watching.returncode, complaints) == (0, "")
    assert words(rest.splitlines()) == ["CheckpointSaved", "Succeeded", "Progress"]
    assert f"the model is in {OUTPUT.path}" in rest


@pytest.mark.parametrize("good", [True, False])
def test_a_result_that_is_to_be_uploaded_is_waited_for(namespace: Namespace, good: bool) -> None:
    namespace.submit("uploaded", **PUBLISH)
    world = World(spec={"dataset": INLINE} | PUBLISH)
    world.settle()
    world.run_pods()
    world.succeed(report(step=36, output=OUTPUT))
    world.turn()
    write(namespace, "uploaded", world)
    watching = watch(namespace, "uploaded")
    assert words(read(watching, 2)) == ["Accepted", "Succeeded"]
    world.settle()
    world.run_pods()
    if good:
        world.succeed(published())
    else:
        known = world.status.publication
        assert known is not None
        tries = {"publication": known.model_copy(update={"tries": MAX_TRIES - 1})}
        world.status = world.status.model_copy(update=tries)
        world.fail_single_pod(77, message="no access")
    world.settle()
    write(namespace, "uploaded", world)
    rest, complaints = watching.communicate(timeout=PATIENCE)
    assert (words(rest.splitlines())[-1], watching.returncode) == (
        ("Published", 0) if good else ("PublishFailed", 1)
    )
    assert complaints.startswith("" if good else "Error: it is trained, and not uploaded: demo-publish-")


def test_failure_exits_1_with_its_cause(namespace: Namespace) -> None:
    namespace.submit("bad")
    world = World(spec={"dataset": INLINE})
    world.settle()
    world.run_pods()
    world.fail_pod(0, exit_code=78, message="no file train.jsonl on claim data")
    world.settle()
    write(namespace, "bad", world)
    watching = watch(namespace, "bad")
    _, complaints = watching.communicate(timeout=PATIENCE)
    assert (watching.returncode, complaints) == (1, "Error: demo-1-0: no file train.jsonl on claim data\n")


def test_a_job_that_is_not_there_exits_1(namespace: Namespace) -> None:
    watching = watch(namespace, "missing")
    _, complaints = watching.communicate(timeout=PATIENCE)
    assert watching.returncode == 1
    assert f"there is no finetunejob/missing in namespace {namespace.name}" in complaints


def test_a_job_that_is_deleted_exits_1(namespace: Namespace) -> None:
    namespace.submit("fleeting")
    world = World(spec={"dataset": INLINE})
    world.settle()
    write(namespace, "fleeting", world)
    watching = watch(namespace, "fleeting")
    read(watching, 2)
    namespace.delete(FINETUNEJOBS, "fleeting")
    _, complaints = watching.communicate(timeout=PATIENCE)
    assert (watching.returncode, complaints) == (1, "Error: finetunejob/fleeting was deleted\n")


def test_ctrl_c_exits_130_and_the_timeout_124(namespace: Namespace) -> None:
    namespace.submit("slow")
    world = World(spec={"dataset": INLINE})
    world.settle()
    write(namespace, "slow", world)
    interrupted, impatient = watch(namespace, "slow"), watch(namespace, "slow", "--timeout=1s")
    read(interrupted, 2)
    interrupted.send_signal(signal.SIGINT)
    assert interrupted.communicate(timeout=PATIENCE) == ("", "")
    assert interrupted.returncode == 130
    _, complaints = impatient.communicate(timeout=PATIENCE)
    assert impatient.returncode == 124
    assert "finetunejob/slow is still underway" in complaints


def test_an_unreachable_api_server_exits_1(namespace: Namespace, tmp_path: Path) -> None:
    nowhere = tmp_path / "config"
    text = namespace.kube.kubeconfig.read_text()
    server = next(line for line in text.splitlines() if "server:" in line)
    nowhere.write_text(text.replace(server.split("server:")[1].strip().strip('"'), "https://127.0.0.1:1"))
    environment = os.environ | {"KUBECONFIG": str(nowhere)}
    command = [FINETUNE, "watch", "any"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "cannot be reached" in done.stderr
