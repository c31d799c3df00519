"""What is kept of a job that did not end as it was meant to."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

from benchmarks.soak.place import Place, Wire
from benchmarks.soak.plan import JobPlan
from deploy import NAMESPACE as OPERATOR_NAMESPACE
from deploy import ROOT

STORIES = ROOT / "build" / "soak"
_KEPT = ("metrics.jsonl", "evaluations.jsonl", "logs")


def save(place: Place, plan: JobPlan, problems: list[str], found: Wire) -> Path:
    """All that is known of a job, in a folder of its own."""
    folder = STORIES / plan.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "problems.txt").write_text("\n".join(problems) + "\n")
    for name, content in {
        "plan": asdict(plan),
        "finetunejob": found,
        "children": place.children(plan.name),
        "events": place.events(plan.name),
    }.items():
        (folder / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
    for name in _KEPT:
        kept = place.runs / plan.name / name
        if kept.is_dir():
            shutil.copytree(kept, folder / name)
        elif kept.exists():
            shutil.copy(kept, folder / name)
    _save_logs(place, folder)
    return folder


def _save_logs(place: Place, folder: Path) -> None:
    """What the operator's containers printed, those before the last kill included."""
    # Pods' logs are in the mounts of the node: the kubelet's own view has them.
    kubelet = place.processes.running("kubelet")
    if kubelet is None:
        return
    logs = Path(f"/proc/{kubelet.pid}/root/var/log/pods")
    for file in logs.glob(f"{OPERATOR_NAMESPACE}_*/*/*.log"):
        shutil.copy(file, folder / f"operator-{file.name}")
