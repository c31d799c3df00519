"""The preparation of a run whose model and data come over the network, as the first process of its pod."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from fetched import config
from finetune_api import names
from finetune_api.failure import ExitCode
from finetune_api.report import Report, Stage
from finetune_trainer import checks
from finetune_trainer.adapters.identity import Named, named
from hub_server import HubServer
from plug import Plug
from tiny import save_chat_data, save_tiny_model
from trainer.gangs import PATIENCE

REPO = "team/tiny"
MODEL = {"huggingFace": {"repo": REPO}}
TRAIN = {"objectStore": {"uri": "s3://corpora/train-*.jsonl"}}


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    save_tiny_model(tmp_path / "tiny")
    server = HubServer()
    files = {file.name: file.read_bytes() for file in (tmp_path / "tiny").iterdir()}
    server.repository(REPO).commit(files)
    yield server
    server.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An S3 server with data, and the environment by which it is found."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    keys = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
    }
    client = boto3.client(
        "s3",
        endpoint_url=keys["AWS_ENDPOINT_URL"],
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
    client.create_bucket(Bucket="corpora")
    for number, samples in enumerate((30, 50)):
        save_chat_data(tmp_path / "rows.jsonl", samples=samples)
        client.upload_file(str(tmp_path / "rows.jsonl"), "corpora", f"train-{number}.jsonl")
    yield keys
    server.stop()


class Preparing:
    """The process, started again for every trial as its Job would."""

    def __init__(self, base: Path, environment: dict[str, str]) -> None:
        self.file = base / "run.json"
        self._end = base / "end"
        self._environment = {**os.environ, **environment, names.ENV_TERMINATION_LOG: str(self._end)}

    def start(self) -> subprocess.Popen[str]:
        self._end.unlink(missing_ok=True)
        command = [sys.executable, "-m", "finetune_trainer", "prepare", "--config", str(self.file)]
        return subprocess.Popen(
            command, env=self._environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def run(self) -> tuple[int, str, Report]:
        process = self.start()
        output, _ = process.communicate(timeout=PATIENCE)
        return process.returncode, output, Report.model_validate_json(self._end.read_text())


def test_it_downloads_prepares_and_tells_what_the_inputs_were(
    hub: HubServer, store: dict[str, str], tmp_path: Path
) -> None:
    run = config(tmp_path, MODEL, TRAIN)
    preparing = Preparing(tmp_path, store | {"HF_ENDPOINT": hub.url})
    preparing.file.write_text(run.to_json())
    code, output, report = preparing.run()
    assert code == 0, output
    assert (report.stage, report.transfer) == (Stage.FINISHED, None)
    assert report.dataset is not None
    assert report.dataset.samples == 80
    commit = hub.repository(REPO).branches["main"]
    assert [(one.name, one.revision) for one in report.inputs] == [("model", commit), ("train", None)]
    assert all(one.digest.startswith("sha256:") and one.bytes > 0 for one in report.inputs)
    # What libraries look up they find on the volume: the hub is asked for what is downloaded, and for nothing else.
    asked = {one.path.partition("?")[0] for one in hub.requests}
    assert {path.rsplit("/", 1)[0] for path in asked if path.startswith("/api")} == {
        f"/api/models/{REPO}/revision",
        f"/api/models/{REPO}/tree",
    }
    # Training pods read the same file, and find the same.
    located = checks.load(preparing.file)
    checks.check(located, node=0)
    assert named(Path(located.locations.model)) == Named(REPO, commit)
    assert [Path(file).name for file in located.locations.data["train"]] == ["train-0.jsonl", "train-1.jsonl"]


def test_asked_to_stop_in_the_middle_it_ends_at_once_and_goes_on_later(
    hub: HubServer, store: dict[str, str], tmp_path: Path
) -> None:
    plug = Plug(hub.address)
    run = config(tmp_path, MODEL, TRAIN)
    preparing = Preparing(tmp_path, store | {"HF_ENDPOINT": f"http://127.0.0.1:{plug.address[1]}"})
    preparing.file.write_text(run.to_json())
    plug.pull_after(20_000, "down")
    with preparing.start() as process:
        try:
            assert process.stdout is not None
            assert any("trying again" in line for line in process.stdout)
            process.terminate()
            assert process.wait(PATIENCE) == ExitCode.TERMINATED
        finally:
            process.kill()
    recorded = json.loads((Path(run.locations.storage) / names.INPUTS_FILE).read_text())
    first = hub.repository(REPO).branches["main"]
    assert recorded["inputs"][0]["revision"] == first
    hub.repository(REPO).commit({"config.json": b"{}"})
    plug.put_back()
    code, output, report = preparing.run()
    plug.close()
    assert code == 0, output
    assert report.inputs[0].revision == first


def test_a_store_that_denies_access_ends_it_with_what_to_do(hub: HubServer, tmp_path: Path) -> None:
    nobody = {"AWS_EC2_METADATA_DISABLED": "true", "HOME": str(tmp_path), "HF_ENDPOINT": hub.url}
    preparing = Preparing(tmp_path, nobody)
    preparing.file.write_text(config(tmp_path, MODEL, TRAIN).to_json())
    code, output, report = preparing.run()
    assert code == ExitCode.ACCESS_DENIED, output
    assert report.failure is not None
    assert report.failure.message.startswith('spec.dataset.train: "s3://corpora/train-*.jsonl"')
    assert report.transfer is None
