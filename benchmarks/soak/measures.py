"""What the cluster and the operator hold, seen from outside."""

from contextlib import suppress
from pathlib import Path

from benchmarks.soak.place import CHILDREN, LEASES, Place
from benchmarks.usage import usage
from cluster.kube import EVENTS
from deploy import NAMESPACE as OPERATOR_NAMESPACE

MIB = 2**20

# By how much each may rise over half the time without being called a leak: what a job or two more at the end than in
# the middle make. What is not here is measured and not judged: the API server keeps events for an hour.
ALLOWANCES = {
    "operator_resident_mib": 8.0,
    "operator_descriptors": 6.0,
    "operator_threads": 2.0,
    "finetunejobs": 2.0,
    "pods": 4.0,
    "jobs": 4.0,
    "configmaps": 4.0,
    "services": 2.0,
    "networkpolicies": 2.0,
    "leases": 0.5,
    "containers": 8.0,
    "pod_processes": 30.0,
    "volume_mib": 50.0,
}
# What must be as it was before the first job once the last is gone. The kubelet keeps containers that have ended for a
# while, and prepared data is kept for the next job.
GONE_AT_REST = ("finetunejobs", *CHILDREN, "leases", "pod_processes")


def measure(place: Place) -> dict[str, float]:
    """One measurement; without what the operator holds where it is just being started anew."""
    found: dict[str, float] = {
        "finetunejobs": len(place.ask("GET", place.job_path())["items"]),
        **{kind: len(place.all(template)) for kind, template in CHILDREN.items()},
        "events": len(place.all(EVENTS)),
        "leases": len(place.all(LEASES)) + len(place.all(LEASES, OPERATOR_NAMESPACE)),
        "containers": len(place.containerd.ctr("containers", "list", "--quiet").split()),
        "pod_processes": len(place.isolation.pod_processes()),
        "volume_mib": _bytes(place.runs) / MIB,
    }
    pid = place.operator_process()
    if pid is not None:
        # Where it has just ended, a new one is measured the next time.
        with suppress(ProcessLookupError, FileNotFoundError):
            found |= {"operator_pid": pid, **_of_operator(pid)}
    return found


def _of_operator(pid: int) -> dict[str, float]:
    return {
        "operator_resident_mib": usage([pid]).resident_bytes / MIB,
        "operator_cpu_seconds": usage([pid]).cpu_seconds,
        "operator_descriptors": len(list(Path(f"/proc/{pid}/fd").iterdir())),
        "operator_threads": len(list(Path(f"/proc/{pid}/task").iterdir())),
    }


def _bytes(folder: Path) -> int:
    total = 0
    for file in folder.rglob("*"):
        try:
            total += file.lstat().st_blocks * 512
        except FileNotFoundError:
            continue  # jobs write and remove files meanwhile
    return total
