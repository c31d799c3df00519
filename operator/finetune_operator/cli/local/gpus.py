"""The GPUs of this machine, without importing torch."""

import os
import shutil
import subprocess

from finetune_api.spec import FineTuneJob
from finetune_operator.cli.errors import CommandError

VISIBLE = "CUDA_VISIBLE_DEVICES"


def assign(job: FineTuneJob) -> list[list[str]]:
    """The GPUs of every node, disjoint; none where the job trains on the CPU.

    Raises CommandError when this machine has too few.
    """
    nodes, each = job.spec.resources.nodes, job.spec.resources.gpus_per_node
    if each == 0:
        return [[] for _ in range(nodes)]
    available = devices()
    if len(available) < nodes * each:
        raise CommandError(
            f"the job needs {nodes * each} GPUs (spec.resources: nodes {nodes}, gpusPerNode {each}), and this machine "
            f"has {len(available)}. Lower them, or set gpusPerNode: 0 to train on the CPU."
        )
    return [available[node * each : (node + 1) * each] for node in range(nodes)]


def devices() -> list[str]:
    """The GPUs that this process may use, by the names that CUDA_VISIBLE_DEVICES takes."""
    if (visible := os.environ.get(VISIBLE)) is not None:
        return [device for device in visible.split(",") if device and device != "-1"]
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
    # It fails where there is a driver and no GPU.
    done = subprocess.run(query, capture_output=True, text=True, check=False)
    return done.stdout.split() if done.returncode == 0 else []
