"""`finetune run`, for real: two nodes on this machine that are killed, interrupted and gone on with."""

import json
import os
import signal
import time

import pytest

from tiny import save_chat_data, save_tiny_model
from trainer.local import PATIENCE, STEPS, Ended, Folders, end, manifest, wait_for


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """A tiny model and 20 samples, one of which is longer than maxSeqLen."""
    made = Folders(tmp_path_factory.mktemp("claims"))
    save_tiny_model(made.root / "models" / "tiny")
    save_chat_data(made.root / "data" / "train.jsonl", samples=19, overlong=1)
    return made


@pytest.fixture(scope="module")
def interrupted(folders: Folders) -> Ended:
    """A run one of whose nodes is killed, and that is interrupted once its second attempt trains."""
    process = folders.start()
    wait_for(lambda: folders.trains(attempt=1), process)
    [victim] = folders.processes("LOCAL_RANK=0", "PET_NODE_RANK=1")
    os.kill(victim, signal.SIGKILL)
    wait_for(lambda: folders.trains(attempt=2), process)
    process.send_signal(signal.SIGINT)
    return end(process)


@pytest.fixture(scope="module")
def finished(folders: Folders, interrupted: Ended) -> Ended:
    """The same command once more."""
    return end(folders.start())


def test_a_killed_node_ends_its_peer_and_the_gang_starts_again(interrupted: Ended) -> None:
    assert "local-run-1-1: the training process of rank 1 was ended by SIGKILL" in interrupted.stderr
    assert "Restarting" in interrupted.stderr


def test_ctrl_c_saves_and_says_how_to_go_on(folders: Folders, interrupted: Ended) -> None:
    assert interrupted.exit_code == 130
    assert interrupted.stdout == ""
    assert "Stopping        the nodes save their state" in interrupted.stderr
    assert interrupted.stderr.endswith("is saved: the same command goes on from there.\n")
    assert not folders.processes()


def test_the_same_command_goes_on_to_the_end_and_prints_the_status(
    interrupted: Ended, finished: Ended
) -> None:
    assert finished.exit_code == 0, finished.stderr
    status = finished.status
    assert status["phase"] == "Succeeded"
    truths = {condition["type"]: condition["status"] for condition in status["conditions"]}
    assert truths["Accepted"] == truths["Succeeded"] == truths["Ready"] == "True"
    [attempt] = status["attempts"]
    assert f"The state of step {attempt['resumedFromStep']} is saved" in interrupted.stderr
    assert status["progress"]["summary"] == f"{STEPS}/{STEPS} (100%)"
    assert status["progress"]["loss"] < status["progress"]["initialLoss"]
    assert (status["dataset"]["samples"], status["dataset"]["dropped"]) == (19, 1)


def test_the_model_is_where_the_status_says(folders: Folders, finished: Ended) -> None:
    output = folders.root / "runs" / finished.status["output"]["path"]
    assert f"The model is in {output}" in finished.stderr
    assert json.loads((output / "config.json").read_text())["model_type"] == "llama"
    assert list(output.glob("*.safetensors"))


def test_a_run_that_is_over_is_not_trained_again(folders: Folders, finished: Ended) -> None:
    before = (folders.storage / "output" / "model.safetensors").stat().st_mtime_ns
    again = end(folders.start())
    assert (again.exit_code, again.status["phase"]) == (0, "Succeeded")
    assert again.status["output"] == finished.status["output"]
    assert (folders.storage / "output" / "model.safetensors").stat().st_mtime_ns == before


def test_another_spec_does_not_touch_the_results_of_this_one(folders: Folders, finished: Ended) -> None:
    other = manifest()["spec"]["hyperparameters"] | {"seed": 7}
    refused = end(folders.start(hyperparameters=other))
    assert refused.exit_code == 1
    assert "belongs to another run" in refused.stderr
    assert refused.status["phase"] == "Failed"


def test_a_wrong_path_exits_1_with_a_message_that_names_it(folders: Folders) -> None:
    wrong = {"train": {"volume": {"claimName": "data", "path": "no-such.jsonl"}}}
    failed = end(folders.start(dataset=wrong, storage={"claimName": "runs", "path": "wrong"}))
    assert failed.exit_code == 1
    assert "no-such.jsonl" in failed.stderr.split("Error: ")[1]
    status = failed.status
    assert (status["phase"], status["attempts"]) == ("Failed", [])
    [prepared] = [c for c in status["conditions"] if c["type"] == "Prepared"]
    assert (prepared["status"], prepared["reason"]) == ("False", "InvalidConfiguration")


def test_a_bad_row_ends_the_run_before_any_node_is_started(folders: Folders) -> None:
    good = (folders.root / "data" / "train.jsonl").read_text()
    (folders.root / "data" / "bad.jsonl").write_text('{"messages": [{"content": "hi"}]}\n' + good)
    bad = {"train": {"volume": {"claimName": "data", "path": "bad.jsonl"}}}
    failed = end(folders.start(dataset=bad, storage={"claimName": "runs", "path": "bad"}))
    assert failed.exit_code == 1
    assert "line 1: messages[0].role: " in failed.stderr
    assert (failed.status["phase"], failed.status["attempts"]) == ("Failed", [])
    assert "Started" not in failed.stderr


def test_ctrl_c_while_the_data_are_prepared_ends_it(folders: Folders) -> None:
    process = folders.start(storage={"claimName": "runs", "path": "unprepared"})
    wait_for(lambda: bool(folders.processes("finetune-trainer\0prepare")), process)
    process.send_signal(signal.SIGINT)
    ended = end(process)
    assert (ended.exit_code, ended.stdout) == (130, "")
    assert "the same command starts from the beginning" in ended.stderr
    assert "Started" not in ended.stderr
    folders.expect_no_processes()


def test_two_runs_cannot_share_a_folder_and_a_second_ctrl_c_does_not_wait(folders: Folders) -> None:
    mine = {"claimName": "runs", "path": "locked"}
    first = folders.start(storage=mine)
    wait_for(lambda: bool(folders.processes("finetune_trainer.agent")), first)
    second = end(folders.start(storage=mine))
    assert second.exit_code == 1
    assert "another run is underway" in second.stderr
    # Like nodes that take their time to save.
    for node in folders.processes("finetune-trainer\0train"):
        os.kill(node, signal.SIGSTOP)
    first.send_signal(signal.SIGINT)
    time.sleep(1)
    assert first.poll() is None
    first.send_signal(signal.SIGINT)
    ended = end(first)
    assert ended.exit_code == 130
    assert "the same command starts from the beginning" in ended.stderr
    folders.expect_no_processes()


def test_nodes_do_not_outlive_the_command(folders: Folders) -> None:
    killed = folders.start(storage={"claimName": "runs", "path": "killed"})
    wait_for(lambda: bool(folders.processes("finetune_trainer.agent")), killed)
    killed.kill()
    killed.communicate(timeout=PATIENCE)
    folders.expect_no_processes()
