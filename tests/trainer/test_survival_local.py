"""`finetune run` meets what clusters meet: it comes back by itself, or says what is wrong, and loses nothing."""

import json
import os
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from finetune_api.report import StepRecord
from tiny import conversation, poison, save_chat_data, save_tiny_model
from trainer import forked, gangs
from trainer.local import PATIENCE, Ended, Folders, end, manifest, wait_for
from trainer.survival import is_intact

STEPS = 200
HYPERPARAMETERS = manifest()["spec"]["hyperparameters"] | {"maxSteps": STEPS}
# States are saved at the end of each epoch, which has four steps.
CHECKPOINTS = {"everyEpoch": False}
# Longer than imports keep a process silent; on a very busy machine it is taken to hang once more than it does.
HANGS_AFTER = 30
MANY = 20


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """A tiny model and 20 samples."""
    made = Folders(tmp_path_factory.mktemp("claims"))
    save_tiny_model(made.root / "models" / "tiny")
    save_chat_data(made.root / "data" / "train.jsonl", samples=20)
    return made


def states(storage: Path) -> list[Path]:
    return [path for path in sorted(storage.glob("resume/step-*")) if is_intact(path)]


def next_to_train(folders: Folders, process: subprocess.Popen[str], after: int) -> int:
    """Wait until an attempt after that one has made some steps; returns its number."""

    def training() -> int:
        return max((attempt for attempt in range(1, MANY) if folders.trains(attempt)), default=0)

    wait_for(lambda: training() > after, process)
    return training()


@dataclass(frozen=True)
class Hit:
    """A run with a killed, a stopped and an interrupted attempt, and a damaged state."""

    interrupted: Ended
    intact: int
    """Step of the newest state that was left intact."""
    finished: Ended


@pytest.fixture(scope="module")
def hit(folders: Folders) -> Hit:
    parts: dict[str, Any] = {
        "hyperparameters": HYPERPARAMETERS,
        "checkpoints": CHECKPOINTS,
        # There is none here to wait in.
        "scheduling": {"queueName": "team", "workloadPriorityClassName": "batch"},
        # A stopped process does not hear that it is asked to go: it is killed when the grace period is over.
        "failurePolicy": {
            "progressDeadlineSeconds": HANGS_AFTER,
            "gracePeriodSeconds": 10,
            "maxRestarts": MANY,
        },
    }
    process, attempt = folders.start(**parts), 0
    for blow in (signal.SIGKILL, signal.SIGSTOP):
        attempt = next_to_train(folders, process, attempt)
        [worker] = folders.processes("LOCAL_RANK=0", "PET_NODE_RANK=1")
        os.kill(worker, blow)
    next_to_train(folders, process, attempt)
    wait_for(lambda: len(states(folders.storage)) == 2, process)
    process.send_signal(signal.SIGINT)
    interrupted = end(process)
    *_, older, newest = states(folders.storage)
    [file] = newest.glob("__1_*")
    with file.open("r+b") as opened:
        opened.truncate(100)
    return Hit(interrupted, int(older.name.removeprefix("step-")), end(folders.start(**parts)))


def test_a_killed_process_and_one_that_hangs_are_replaced_without_anybody_s_help(hit: Hit) -> None:
    told = hit.interrupted.stderr
    assert "the training process of rank 1 was ended by SIGKILL" in told, told
    assert "no sign of life for" in told, told
    assert told.count("Restarting") >= 2
    assert "Queued" not in told
    assert hit.interrupted.exit_code == 130, told


def test_it_goes_on_from_the_newest_state_that_is_intact(hit: Hit) -> None:
    assert hit.finished.exit_code == 0, hit.finished.stderr
    [attempt] = hit.finished.status["attempts"]
    assert attempt["resumedFromStep"] == hit.intact


def test_the_result_is_that_of_an_undisturbed_run(folders: Folders, hit: Hit) -> None:
    shutil.copytree(folders.root / "models" / "tiny", folders.root / "model")
    shutil.copy(folders.root / "data" / "train.jsonl", folders.root)
    undisturbed = gangs.config(
        folders.root, name="undisturbed", nodes=2, every_epoch=False, **HYPERPARAMETERS
    )
    forked.train(undisturbed)
    ours, theirs = folders.storage, folders.root / "undisturbed"
    assert gangs.losses(ours) == gangs.losses(theirs)
    assert len(gangs.losses(ours)) == STEPS
    weights = [directory / "output" / "model.safetensors" for directory in (ours, theirs)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert not (ours / "resume").exists()
    folders.expect_no_processes()


@gangs.needs_mount
def test_a_full_volume_ends_it_and_with_more_room_it_goes_on(tmp_path: Path) -> None:
    folders = Folders(tmp_path)
    save_tiny_model(folders.root / "models" / "tiny")
    save_chat_data(folders.root / "data" / "train.jsonl", samples=20)
    (folders.root / "runs").mkdir()
    hyperparameters = HYPERPARAMETERS | {"maxSteps": 20}
    command = folders.command(
        hyperparameters=hyperparameters,
        checkpoints=CHECKPOINTS,
        resources={"nodes": 1, "gpusPerNode": 0},
    )
    # Room for two states, not for a third one beside them.
    script = """
        mount -t tmpfs -o size=1500k tmpfs "$0/runs"
        "$@" >"$0/first" 2>"$0/first-told"; echo $? >"$0/first-code"
        cp -r "$0/runs" "$0/full"
        mount -o remount,size=64m "$0/runs"
        "$@" >"$0/second" 2>"$0/second-told"; echo $? >"$0/second-code"
        cp -r "$0/runs" "$0/done"
    """
    unshare = ["unshare", "--map-root-user", "--mount", "sh", "-c", script, str(folders.root), *command]
    subprocess.run(unshare, check=True, timeout=2 * PATIENCE, env=os.environ | {"TMPDIR": str(folders.root)})

    def ended(name: str) -> Ended:
        code, *told = ((folders.root / f"{name}{part}").read_text() for part in ("-code", "", "-told"))
        return Ended(int(code), *told)

    first, second = ended("first"), ended("second")
    assert first.exit_code == 1
    assert first.status["attempts"][-1]["reason"] == "StorageFull"
    assert len(first.status["attempts"]) == 1
    full = folders.root / "full" / folders.storage.name
    assert [path.name for path in states(full)] == ["step-00000004", "step-00000008"]
    assert second.exit_code == 0, second.stderr
    assert second.status["attempts"][0]["resumedFromStep"] == 8
    lines = (folders.root / "done" / folders.storage.name / "metrics.jsonl").read_text().splitlines()
    assert [StepRecord.model_validate_json(line).step for line in lines] == list(range(1, 21))


def test_a_loss_that_is_no_number_ends_it_and_nothing_is_tried_again(folders: Folders) -> None:
    rows = [conversation("x", "y")] * 8 + [conversation("x", "~")] * 2
    (folders.root / "data" / "poisoned.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    poison(folders.root / "models" / "tiny", folders.root / "models" / "poisoned", token="~")
    failed = end(
        folders.start(
            model={"volume": {"claimName": "models", "path": "poisoned"}},
            dataset={"train": {"volume": {"claimName": "data", "path": "poisoned.jsonl"}}},
            storage={"claimName": "runs", "path": "poisoned"},
            hyperparameters=HYPERPARAMETERS,
        )
    )
    assert failed.exit_code == 1
    [attempt] = failed.status["attempts"]
    assert attempt["reason"] == "LossNotFinite"
    assert "Restarting" not in failed.stderr
    assert not list((folders.root / "runs" / "poisoned").glob("output*"))
