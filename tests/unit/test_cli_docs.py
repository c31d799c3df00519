"""What docs/cli.md shows of commands is what they print."""

import io
import json
import re
import textwrap
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from finetune_api.curve import Curve
from finetune_api.report import Metrics, Report
from finetune_api.scores import Evaluated, SetScore, status_of
from finetune_api.status import Checkpoint
from finetune_operator.cli import explain
from finetune_operator.cli.display import Display, news
from finetune_operator.cli.explaining import explanation
from finetune_operator.cli.explaining.sight import Queue, Quota, Sight
from finetune_operator.cli.watching.panel import Panel, telling
from finetune_operator.cli.watching.pods import Gang, gang
from terminal import finetune
from world import INLINE, PLAN, World, report

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"
# Of a terminal, and of the page.
WIDTH = 120
JOB = """\
apiVersion: finetune.dev/v1alpha1
kind: FineTuneJob
metadata:
  name: support-1b
  namespace: team-a
spec:
  method: sft
  model: {volume: {claimName: models, path: llama-3.2-1b}}
  dataset: {train: {volume: {claimName: data, path: support.jsonl}}}
  storage: {claimName: runs}
  hyperparameters:
    learningRate: 1e-3
"""
# The loss falls by less and less.
LOSSES = [1.2 + 1.11 * 0.93**point for point in range(48)]


def shown(section: str, number: int = 0) -> str:
    """A block of a section of the page, without its fences."""
    [text] = [part for part in PAGE.read_text().split("\n## ") if part.startswith(f"{section}\n")]
    return text.split("```")[2 * number + 1].split("\n", 1)[1]


def on_terminal(printed: str) -> str:
    """What is printed, as wide as the page is."""
    lines = [
        textwrap.wrap(
            line, WIDTH, subsequent_indent=line[: len(line) - len(line.lstrip())], break_on_hyphens=False
        )
        or [""]
        for line in printed.splitlines()
    ]
    return "".join(f"{part}\n" for line in lines for part in line)


def in_queue() -> World:
    """A job whose gang its queue has not admitted yet."""
    world = World(spec={"dataset": INLINE})
    world.settle()
    for job in world.jobs.values():
        world.jobs[job.name] = replace(job, queue="team-a", suspended=True)
    world.settle()
    return world


def checkpoint(world: World, step: int, kind: Any, directory: str) -> Checkpoint:
    name = f"step-{step:08}"
    path = f"demo/{directory}/{name}"
    return Checkpoint(name=name, step=step, kind=kind, path=path, bytes=100, time=world.now)


def evaluated(world: World, step: int, validation: float, general: float) -> Evaluated:
    losses = {"validation": validation, "general": general}
    sets = [SetScore.of(name, loss_sum=loss * 100, correct=1, tokens=100) for name, loss in losses.items()]
    return Evaluated(step=step, time=world.now, sets=sets)


def training(attempt: int, sequence: int, step: int, judged: list[Evaluated], **more: Any) -> Report:
    return report(
        attempt,
        sequence,
        None,
        plan=PLAN.model_copy(update={"total_steps": 3600, "steps_per_epoch": 600}),
        metrics=Metrics(
            step=step,
            epoch=step / 600,
            loss=LOSSES[-1],
            learning_rate=4.2e-6,
            tokens_per_second=52_100,
            mfu=0.41,
            grad_norm=0.83,
        ),
        initial_loss=LOSSES[0],
        seconds_remaining=7800,
        curve=Curve(
            steps=range(25, 25 + 25 * len(LOSSES), 25),
            loss=LOSSES,
            learning_rate=[4.2e-6] * len(LOSSES),
            tokens_per_second=[52_100.0] * len(LOSSES),
            validation_steps=[one.step for one in judged],
            validation_loss=[one.validation_loss for one in judged],
        ),
        evaluation=status_of(judged),
        **more,
    )


def watched(world: World) -> tuple[list[tuple[str, str]], Gang]:
    """What is news at the end of an hour of training, and the pods."""
    judged = [evaluated(world, 0, 3.2, 2.05), evaluated(world, 600, 1.62, 2.06)]
    world.now += timedelta(seconds=200)
    world.admit()
    world.run_pods()
    states = [checkpoint(world, 600, "resume", "resume")]
    world.post(training(1, 1, 1000, judged, checkpoints=states))
    world.settle()
    world.fail_pod(0, exit_code=137)
    world.settle()
    world.now += timedelta(minutes=1)
    world.settle()
    world.run_pods()
    world.post(training(2, 1, 1199, judged, checkpoints=states))
    world.settle()
    before = world.status
    judged.append(evaluated(world, 1200, 1.4, 2.07))
    best = checkpoint(world, 1200, "weights", "checkpoints").model_copy(
        update={"best": True, "validation_loss": 1.4}
    )
    world.post(training(2, 2, 1240, judged, checkpoints=[checkpoint(world, 1200, "resume", "resume"), best]))
    world.settle()
    world.now += timedelta(minutes=3)
    pods = [
        replace(pod, name=f"demo-2-{pod.index}-{end}", node=f"gpu-{node}")
        for pod, end, node in zip(world.current_pods, ("x7k2p", "m9fzq"), (1, 4), strict=True)
    ]
    return list(news(before, world.status)), gang(pods)


def test_validate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "a.yaml").write_text(JOB.replace("learningRate", "learningrate"))
    (tmp_path / "jobs" / "b.yaml").write_text(JOB)
    monkeypatch.chdir(tmp_path)
    assert shown("validate") == "$ finetune validate jobs/\n" + on_terminal(
        finetune("validate", "jobs/").output
    )
    assert json.loads(shown("Output for programs")) == json.loads(
        finetune("validate", "jobs/", "-o", "json").output
    )


def test_watch() -> None:
    world = in_queue()
    told, pods = watched(world)
    panel = Panel(lambda: world.now)
    panel.status, panel.gang, panel.message = world.status, pods, telling(world.status)
    console = Console(
        file=io.StringIO(), record=True, force_terminal=True, color_system="256", width=WIDTH, highlight=False
    )
    display = Display(console)
    for line in told:
        display.say(*line)
    console.print(panel)
    printed = re.sub(r"^\S( \w+ing )", r"⠸\1", console.export_text(), flags=re.MULTILINE)
    at_that_time = re.sub(r"^\d\d:\d\d:\d\d", "13:02:11", printed, flags=re.MULTILINE)
    assert shown("watch", 1) == "".join(f"{line.rstrip()}\n" for line in at_that_time.splitlines())


def test_explain(monkeypatch: pytest.MonkeyPatch) -> None:
    world = in_queue()
    world.now += timedelta(minutes=42)
    words = (
        "couldn't assign flavors to pod set main: insufficient unused quota for nvidia.com/gpu in flavor h200, "
        "8 more needed"
    )
    condition = {"type": "QuotaReserved", "status": "False", "reason": "Pending", "message": words}
    sight = Sight(
        world.subject,
        tuple(world.jobs.values()),
        workload={"status": {"conditions": [condition]}},
        queue=Queue(
            "team-a", pending=2, admitted=1, quotas=(Quota("nvidia.com/gpu (flavor h200)", "8", "16"),)
        ),
    )

    async def seen(name: str, namespace: str | None) -> explanation.Explanation:
        return explanation.explain(sight, world.now)

    monkeypatch.setattr(explain, "_of_job", seen)
    assert shown("explain") == "$ finetune explain demo\n" + on_terminal(finetune("explain", "demo").output)
