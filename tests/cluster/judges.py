"""What Flux and Argo CD make of FineTuneJobs, by their own code."""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clusters.binaries import ensure

Wire = dict[str, Any]
CHART_FILES = Path(__file__).resolve().parents[2] / "charts" / "finetune-operator" / "files"
HEALTH = CHART_FILES / "argocd-health.lua"
ACTIONS = CHART_FILES / "argocd-actions.yaml"


def flux(jobs: Sequence[Wire]) -> list[str]:
    """The status of each, as the library computes it that Flux waits with."""
    return [answer["status"] for answer in _answers("kstatus", jobs)]


def argo_cd(jobs: Sequence[Wire], script: Path = HEALTH) -> list[Wire]:
    """What a script makes of each, in the interpreter that Argo CD runs it in."""
    return _answers("argocd-lua", jobs, str(script))


def _answers(program: str, jobs: Sequence[Wire], *arguments: str) -> list[Wire]:
    command = [str(ensure([program])[program]), *arguments]
    lines = "".join(f"{json.dumps(job)}\n" for job in jobs)
    done = subprocess.run(command, input=lines, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(jobs)
    return answers
