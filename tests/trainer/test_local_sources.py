"""`finetune run` with a model of the hub and data of a ConfigMap: it downloads, trains, and remembers what it took."""

import hashlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from hub_server import HubServer
from tiny import save_chat_data, save_tiny_model
from trainer.local import FINETUNE, end, manifest

MODEL = {"huggingFace": {"repo": "org/tiny", "tokenSecretRef": {"name": "hub", "key": "token"}}}
ROWS = {"train": {"configMap": {"name": "rows", "key": "few.jsonl"}}}


@pytest.fixture
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    """A hub with one repository, which takes a token."""
    files = tmp_path_factory.mktemp("files")
    save_tiny_model(files)
    server = HubServer()
    repository = server.repository("org/tiny")
    repository.commit({file.name: file.read_bytes() for file in files.iterdir()})
    repository.token = "secret"
    yield server
    server.close()


def test_it_downloads_with_the_shell_s_token_trains_and_remembers_what_it_took(
    hub: HubServer, tmp_path: Path
) -> None:
    save_chat_data(tmp_path / "rows" / "few.jsonl", samples=12)
    file = tmp_path / "job.yaml"
    settings = manifest()["spec"]["hyperparameters"] | {"maxSteps": 2}
    resources = {"nodes": 1, "gpusPerNode": 0}
    job = manifest(model=MODEL, dataset=ROWS, hyperparameters=settings, resources=resources)
    file.write_text(yaml.safe_dump(job))
    folders = [f"--claim=runs={tmp_path / 'runs'}", f"--config-map=rows={tmp_path / 'rows'}"]
    shell = {"HF_ENDPOINT": hub.url, "HF_TOKEN": "secret", "TMPDIR": str(tmp_path)}
    ended = end(
        subprocess.Popen(
            [FINETUNE, "run", str(file), *folders],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | shell,
        )
    )
    assert ended.exit_code == 0, ended.stderr
    assert "spec names Secrets of who may download" in ended.stderr
    assert [asked for asked in hub.requests if asked.authorization != "Bearer secret"] == []
    model, train = ended.status["inputs"]
    [commit] = hub.repository("org/tiny").commits
    assert (model["name"], model["revision"]) == ("model", commit)
    assert (tmp_path / "runs" / model["path"] / "config.json").exists()
    assert (train["name"], train["origin"]) == ("train", '"few.jsonl" of ConfigMap "rows"')
    content = (tmp_path / "rows" / "few.jsonl").read_bytes()
    assert train["digest"] == f"sha256:{hashlib.sha256(content).hexdigest()}"
