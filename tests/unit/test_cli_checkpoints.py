"""`finetune checkpoints`: what a run has left, told by its status and by its directory."""

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from finetune_api.report import EvaluationRecord
from finetune_api.scores import Evaluated, EvaluationStatus, SetScore
from finetune_api.status import FineTuneJobStatus, Phase, Progress
from finetune_operator.cli.keeping import shelf
from terminal import finetune, parsed
from world import MERGED, OUTPUT, START, checkpoint

NOW = START + timedelta(minutes=5)


def evaluated(step: int, loss: float) -> Evaluated:
    return Evaluated(step=step, time=START, sets=[SetScore(name="validation", loss=loss, tokens=10)])


def complete(directory: Path, step: int, uid: str = "uid-1", **facts: Any) -> None:
    """What the trainer makes visible: files, and a manifest of them."""
    directory.mkdir(parents=True)
    manifest = {
        "uid": uid,
        "time": START.isoformat(),
        "facts": {"step": step, "epoch": step / 10} | facts,
        "files": {
            ("model.safetensors"): {("bytes"): 3 << 20, ("sha256"): ("0")},
            ("config.json"): {("bytes"): 1 << 20, ("sha256"): ("0")},
        },
    }
    (directory / "manifest.json").write_text(json.dumps(manifest))


def run(tmp_path: Path) -> Path:
    directory = tmp_path / "support"
    for step in (10, 20):
        complete(directory / "checkpoints" / f"step-{step:08}", step)
    complete(directory / "checkpoints" / "full-state-epoch-2", 20)
    complete(directory / "resume" / "step-00000020", 20)
    (directory / "run.json").write_text(json.dumps({"uid": "uid-1"}))
    records = [
        EvaluationRecord.of(evaluated(step, loss), 1) for step, loss in ((0, 3.0), (10, 1.0), (20, 1.5))
    ]
    (directory / ("evaluations.jsonl")).write_text(
        "\n".join(record.model_dump_json(by_alias=True) for record in records)
    )
    return directory


def cells(lines: list[str]) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("  ") if cell] for line in lines]


def test_the_newest_state_is_the_one_that_a_restart_goes_on_from() -> None:
    kept = [
        checkpoint(18, "resume"),
        checkpoint(9),
        checkpoint(18),
        checkpoint(27),
        checkpoint(18, "fullState"),
    ]
    kept[1] = kept[1].model_copy(update={"validation_loss": 1.25, "best": True})
    found = shelf.of_status(FineTuneJobStatus(phase=Phase.RUNNING, checkpoints=kept))
    assert cells(found.table(NOW)) == [
        ["STEP", "KIND", "SIZE", "AGE", "VALIDATION", "NOTE", "PATH"],
        ["9", "weights", "0.0 MiB", "4m51s", "1.25", "best", "demo/checkpoints/step-00000009"],
        ["18", "weights", "0.0 MiB", "4m42s", "-", "-", "demo/checkpoints/step-00000018"],
        ["18", "fullState", "0.0 MiB", "4m42s", "-", "-", "demo/checkpoints/step-00000018"],
        ["18", "resume", "0.0 MiB", "4m42s", "-", "restart goes on here", "demo/checkpoints/step-00000018"],
        ["27", "weights", "0.0 MiB", "4m33s", "-", "-", "demo/checkpoints/step-00000027"],
    ]


def test_of_a_job_that_is_done_the_result_is_told_and_nothing_goes_on() -> None:
    best = evaluated(9, 1.25)
    status = FineTuneJobStatus(
        phase=Phase.SUCCEEDED,
        completion_time=NOW,
        checkpoints=[checkpoint(9), checkpoint(18, "fullState")],
        output=MERGED,
        progress=Progress(step=36),
        evaluation=EvaluationStatus(final=best),
    )
    found = shelf.of_status(status)
    assert found.next is None
    assert [(result.step, result.format, result.path) for result in found.results] == [
        (9, "adapter", "demo/output"),
        (9, "model", "demo/merged"),
    ]
    told = FineTuneJobStatus(output=OUTPUT, progress=Progress(step=36))
    assert [result.step for result in shelf.of_status(told).results] == [36]


def test_a_directory_tells_what_is_complete_of_this_run_with_the_losses_of_its_evaluations(
    tmp_path: Path,
) -> None:
    directory = run(tmp_path)
    # Not complete, and another run's.
    (directory / "checkpoints" / "step-00000030").mkdir()
    complete(directory / "checkpoints" / "step-00000040", 40, uid="uid-2")
    listed = json.loads(finetune("checkpoints", directory, "-o", "json").stdout)
    assert [
        (one["step"], one["kind"], one["bytes"], one["validationLoss"], one.get("best"), one.get("next"))
        for one in listed["checkpoints"]
    ] == [
        (10, "weights", 4 << 20, 1.0, True, None),
        (20, "weights", 4 << 20, 1.5, None, None),
        (20, "fullState", 4 << 20, 1.5, None, None),
        (20, "resume", 4 << 20, 1.5, None, True),
    ]
    assert listed["results"] == []
    complete(directory / "output", 10, format="adapter")
    lines = finetune("checkpoints", directory).stdout.splitlines()
    assert len(lines) == 6
    assert "restart goes on here" not in "".join(lines)
    assert lines[-1].split()[:3] == ["10", "1.00", "adapter"]
    assert lines[-1].endswith(f"result   {directory}/output")
    shown = parsed(finetune("checkpoints", directory, "-o", "yaml").stdout)
    assert datetime.fromisoformat(shown["results"][0]["time"]) == START


def test_where_no_run_has_been_the_command_says_what_to_name(tmp_path: Path) -> None:
    for where, words in (
        (tmp_path, "there is no run.json in"),
        ("no/where", "there is no directory no/where"),
    ):
        refused = finetune("checkpoints", where)
        assert (refused.exit_code, words in refused.stderr) == (1, True), refused.output
    (tmp_path / "run.json").write_text('{"uid": "uid-1"}')
    young = finetune("checkpoints", tmp_path)
    assert (young.exit_code, young.stdout, young.stderr) == (0, "", "no checkpoint is complete yet\n")
