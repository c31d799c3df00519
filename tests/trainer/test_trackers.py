"""Trackers: what the real libraries leave behind, and that none of them can disturb training."""

import logging
import struct
import threading
import time
import zlib
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import masked_crc32c
from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

from finetune_api.report import Metrics, StepSeconds
from finetune_api.scores import Evaluated, SetScore
from finetune_api.status import Plan
from finetune_trainer.ends.errors import TerminatedError
from finetune_trainer.storage import Storage
from finetune_trainer.trackers import Trackers, scalars, scores, tracking
from finetune_trainer.trackers.outbox import Outbox
from finetune_trainer.trackers.tracker import Ending, Point, Run
from trainer.gangs import config

SECONDS = StepSeconds(data=0.25, compute=0.5, communication=0.125)


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine takes its time to import and start things; an attempt here is over before they have."""
    monkeypatch.setattr("finetune_trainer.trackers._CLOSE_SECONDS", 120.0)


def run(directory: Path, attempt: int = 1) -> Run:
    stated = config(directory, name="job", learningRate=1e-3, maxSteps=7)
    plan = Plan(learning_rate=1e-3, num_epochs=1, world_size=attempt, total_steps=7)
    return Run.of(stated, plan, Storage.of(stated), attempt)


def metrics(step: int, loss: float) -> Metrics:
    return Metrics(step=step, loss=loss, learning_rate=1e-3, seconds=SECONDS)


def attempt(directory: Path, number: int, steps: range, *, error: BaseException | None = None) -> None:
    """An attempt that makes these steps and then fails, or not; its losses tell which attempt it was."""
    with tracking(run(directory, number)) as trackers:
        for step in steps:
            trackers.log(metrics(step, loss=step + number / 10))
        if error:
            raise error


def interrupted(directory: Path) -> None:
    """A run that is stopped after step 5 and goes on from step 3."""
    with pytest.raises(TerminatedError):
        attempt(directory, 1, range(1, 6), error=TerminatedError("asked to stop"))
    attempt(directory, 2, range(4, 8))


def events(file: Path) -> list[Event]:
    """The records of an event file: length and content, each with its checksum."""
    data, at, found = file.read_bytes(), 0, []
    while at < len(data):
        header, [length, header_sum] = data[at : at + 8], struct.unpack_from("<QI", data, at)
        content = data[at + 12 : at + 12 + length]
        [content_sum] = struct.unpack_from("<I", data, at + 12 + length)
        assert (header_sum, content_sum) == (masked_crc32c(header), masked_crc32c(content))
        found.append(Event.FromString(content))
        at += 16 + length
    return found


def test_tensorboard_shows_an_interrupted_run_as_one_curve(tmp_path: Path) -> None:
    interrupted(tmp_path)
    curve: dict[int, float] = {}
    files = sorted((tmp_path / "job" / "tensorboard").iterdir())
    assert [file.suffix for file in files] == [".attempt-1", ".attempt-2"]
    for file in files:
        first, start, parameters, *steps = events(file)
        assert first.file_version == "brain.Event:2"
        assert start.session_log.status == SessionLog.START
        assert b"| hyperparameters.learningRate | 0.001 |" in parameters.summary.value[0].tensor.string_val[0]
        # What TensorBoard does where a session starts.
        curve = {step: loss for step, loss in curve.items() if step < start.step}
        for event in steps:
            values = {value.tag: value.simple_value for value in event.summary.value}
            assert values["train/seconds/communication"] == 0.125
            curve[event.step] = values["train/loss"]
    expected = {1: 1.1, 2: 2.1, 3: 3.1, 4: 4.2, 5: 5.2, 6: 6.2, 7: 7.2}
    assert curve == pytest.approx(expected)


@pytest.fixture
def mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    uri = f"file:{tmp_path / 'mlruns'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "support")
    return MlflowClient(uri)


def only_run(client: MlflowClient) -> Any:
    experiment = client.get_experiment_by_name("support")
    assert experiment is not None
    [found] = client.search_runs([experiment.experiment_id])
    return found


def test_mlflow_has_one_run_for_all_attempts(tmp_path: Path, mlflow: MlflowClient) -> None:
    interrupted(tmp_path)
    found = only_run(mlflow)
    assert (found.info.run_name, found.info.status) == ("team-a/job", "FINISHED")
    parameters = found.data.params
    assert parameters["hyperparameters.learningRate"] == parameters["plan.learningRate"] == "0.001"
    assert (parameters["method"], parameters["data"]) == ("sft", '"train.jsonl" on claim "data"')
    history = mlflow.get_metric_history(found.info.run_id, "train/loss")
    assert {point.step: point.value for point in history} == {
        1: 1.1,
        2: 2.1,
        3: 3.1,
        4: 4.2,
        5: 5.2,
        6: 6.2,
        7: 7.2,
    }
    assert found.data.metrics["train/seconds/data"] == 0.25


def test_mlflow_is_told_how_an_attempt_ended(tmp_path: Path, mlflow: MlflowClient) -> None:
    with pytest.raises(TerminatedError):
        attempt(tmp_path, 1, range(1, 3), error=TerminatedError("asked to stop"))
    assert only_run(mlflow).info.status == "KILLED"
    with pytest.raises(ZeroDivisionError):
        attempt(tmp_path, 2, range(3, 5), error=ZeroDivisionError())
    assert only_run(mlflow).info.status == "FAILED"


def test_mlflow_takes_a_long_backlog(tmp_path: Path, mlflow: MlflowClient) -> None:
    attempt(tmp_path, 1, range(1, 500))
    found = only_run(mlflow)
    assert len(mlflow.get_metric_history(found.info.run_id, "train/loss")) == 499


def test_wandb_offline_leaves_a_run_by_the_job_s_uid_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    before = children()
    interrupted(tmp_path)
    # Who writes the files is another process, and a container ends with its first one.
    assert children() <= before
    directories = sorted((tmp_path / "job" / "wandb").glob("offline-run-*"))
    assert len(directories) == 2
    for directory, steps in zip(directories, (range(1, 6), range(4, 8)), strict=True):
        [file] = directory.glob("*.wandb")
        found = records(file)
        assert "exit" in {record.WhichOneof("record_type") for record in found}
        [run] = [record.run for record in found if record.WhichOneof("record_type") == "run"]
        assert (run.run_id, run.display_name) == ("uid-of-job", "team-a/job")
        assert "hyperparameters.learningRate" in {item.key for item in run.config.update}
        history = [record.history for record in found if record.WhichOneof("record_type") == "history"]
        assert [item.step.num for item in history] == list(steps)
        names = {"/".join(item.nested_key) or item.key for item in history[0].item}
        assert {"train/loss", "train/seconds/data"} <= names


def children() -> set[str]:
    """The processes that this one has started."""
    return {
        pid for listed in Path("/proc/self/task").glob("*/children") for pid in listed.read_text().split()
    }


def records(file: Path) -> list[Record]:
    """A log of wandb: seven bytes, then LevelDB's log format, but with zlib's checksums."""
    data, at, found, parts = file.read_bytes(), 7, [], b""
    block, header, full, last = 32768, struct.Struct("<IHB"), 1, 4
    while at < len(data):
        if block - at % block < header.size:
            at += block - at % block
        checksum, length, kind = header.unpack_from(data, at)
        at += header.size
        assert at + length <= len(data), f"{file} ends in the middle of a record"
        assert checksum == zlib.crc32(data[at - 1 : at + length]), (
            f"{file} is damaged before byte {at + length}"
        )
        parts += data[at : at + length]
        at += length
        if kind in (full, last):
            found.append(Record.FromString(parts))
            parts = b""
    return found


@pytest.mark.parametrize(
    "environment",
    [{}, {"WANDB_MODE": "disabled", "WANDB_API_KEY": "key"}, {"MLFLOW_TRACKING_URI": ""}],
)
def test_a_service_that_is_not_named_is_not_used(
    tmp_path: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    with tracking(run(tmp_path)) as trackers:
        assert [outbox.name for outbox in trackers.outboxes] == ["TensorBoard"]


def test_other_processes_than_the_first_track_nothing() -> None:
    with tracking(None) as trackers:
        trackers.log(metrics(1, loss=1.0))
        assert trackers.outboxes == []


class Service:
    """A service that does as it is told."""

    name = "Service"

    def __init__(self, *, faults: int = 0, fault: str = "down", stuck: threading.Event | None = None) -> None:
        self.faults, self.fault, self.stuck = faults, fault, stuck
        self.began: list[int] = []
        self.taken: list[int] = []
        self.ended: Ending | None = None

    def begin(self, first_step: int) -> None:
        if self.stuck:
            self.stuck.wait()
        self.began.append(first_step)

    def log(self, points: Sequence[Point]) -> None:
        if self.faults:
            self.faults -= 1
            raise ConnectionError(self.fault)
        self.taken += [point.step for point in points]

    def end(self, ending: Ending) -> None:
        self.ended = ending


def point(step: int) -> Point:
    return Point(step, time.time(), {"train/loss": 1.0})


def test_a_service_that_hangs_holds_up_neither_training_nor_its_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("finetune_trainer.trackers._CLOSE_SECONDS", 3)
    released = threading.Event()
    healthy = Service()
    trackers = Trackers(Service(stuck=released), healthy)
    began = time.monotonic()
    for step in range(1, 1001):
        trackers.log(metrics(step, loss=1.0))
    assert time.monotonic() - began < 30
    trackers.close(Ending.FINISHED)
    assert time.monotonic() - began < 30
    assert (healthy.taken, healthy.ended) == (list(range(1, 1001)), Ending.FINISHED)
    assert [record.message for record in caplog.records] == [
        "Service: does not answer; what it has not taken is given up. Training goes on without it."
    ]
    released.set()


def test_what_a_service_did_not_take_is_offered_again_and_the_trouble_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    service = Service(faults=3)
    outbox = Outbox(service, interval=0.01)
    for step in (1, 2, 3):
        outbox.put(point(step))
    deadline = time.monotonic() + 10
    while not service.taken and time.monotonic() < deadline:
        time.sleep(0.01)
    outbox.close(Ending.STOPPED)
    outbox.join(10)
    assert (service.taken, service.began, service.ended) == ([1, 2, 3], [1], Ending.STOPPED)
    assert [record.message for record in caplog.records] == [
        "Service: ConnectionError: down. Training goes on without it."
    ]


def test_a_service_that_is_down_at_the_end_is_not_waited_for() -> None:
    service = Service(faults=1000)
    outbox = Outbox(service, interval=0.01)
    outbox.put(point(1))
    outbox.close(Ending.FINISHED)
    began = time.monotonic()
    outbox.join(10)
    assert time.monotonic() - began < 5
    assert service.taken == []


def test_a_slow_service_gets_the_newest(caplog: pytest.LogCaptureFixture) -> None:
    released = threading.Event()
    service = Service(stuck=released)
    outbox = Outbox(service, capacity=10, interval=0.01)
    outbox.put(point(1))
    while outbox._points:
        time.sleep(0.01)
    for step in range(2, 33):
        outbox.put(point(step))
    released.set()
    outbox.close(Ending.FINISHED)
    outbox.join(10)
    assert service.taken == [1, *range(23, 33)]
    assert "did not keep up: 21 steps are missing there" in caplog.text


def test_secrets_are_not_logged(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0123secret")
    service = Service(faults=1, fault="https://me:hunter2@mlflow.example/api?key=0123secret failed")
    outbox = Outbox(service)
    outbox.put(point(1))
    outbox.close(Ending.FINISHED)
    outbox.join(10)
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert "https://***@mlflow.example/api?key=*** failed" in record.message


def test_names_of_charts() -> None:
    assert "train/subspace_leak" not in scalars(Metrics(step=3, loss=1.5))
    assert scalars(Metrics(step=3, subspace_leak=2e-7))["train/subspace_leak"] == 2e-7
    values = scalars(Metrics(step=3, loss=1.5, micro_batches=4, seconds=SECONDS, grad_norm=float("nan")))
    assert values == {
        "train/loss": 1.5,
        "train/samples_seen": 0,
        "train/micro_batches": 4,
        "train/seconds/data": 0.25,
        "train/seconds/compute": 0.5,
        "train/seconds/communication": 0.125,
    }


def evaluated(step: int, loss: float | None) -> Evaluated:
    sets = [
        SetScore(name="validation", loss=loss, tokens=9),
        SetScore(name="general", loss=1.0, token_accuracy=0.25, answered=0.5, tokens=9, change=-1.0),
    ]
    return Evaluated(step=step, time=datetime(2026, 1, 1, tzinfo=UTC), sets=sets)


def test_scores_of_evaluations_have_names_of_their_own() -> None:
    assert scores(evaluated(10, None)) == {
        "eval/general/loss": 1.0,
        "eval/general/token_accuracy": 0.25,
        "eval/general/answered": 0.5,
    }


def test_an_evaluation_that_is_made_up_does_not_take_its_step_out_of_the_charts(tmp_path: Path) -> None:
    attempt(tmp_path, 1, range(1, 4))
    with tracking(run(tmp_path, 2)) as trackers:
        trackers.evaluated(evaluated(3, 1.5))
        trackers.log(metrics(4, loss=1.0))
    _, file = sorted((tmp_path / "job" / "tensorboard").iterdir())
    found = events(file)
    [begun] = [event.step for event in found if event.HasField("session_log")]
    assert begun == 4
    told = {value.tag: event.step for event in found for value in event.summary.value}
    assert (told["eval/validation/loss"], told["train/loss"]) == (3, 4)
