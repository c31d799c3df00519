"""`finetune run` uploads its result with what the shell has, once, and says how to go on where that fails."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from hub_uploads import READER, WRITER, UploadHub
from tiny import save_chat_data, save_tiny_model
from trainer.local import NAME, Ended, Folders, end, manifest

REPO = "me/demo"
PUBLISH = {"huggingFace": {"repo": REPO, "tokenSecretRef": {"name": "hub", "key": "token"}}}


@pytest.fixture
def hub() -> Iterator[UploadHub]:
    server = UploadHub()
    yield server
    server.close()


def test_a_refused_upload_is_told_and_the_same_command_makes_up_for_it(
    tmp_path: Path, hub: UploadHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_tiny_model(tmp_path / "models/tiny", family="llama")
    (tmp_path / "data").mkdir()
    save_chat_data(tmp_path / "data/train.jsonl", samples=20)
    folders = Folders(tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    knobs = manifest()["spec"]["hyperparameters"] | {"maxSteps": 2}

    def run(token: str) -> Ended:
        monkeypatch.setenv("HF_TOKEN", token)
        one = {"nodes": 1, "gpusPerNode": 0}
        return end(folders.start(publish=PUBLISH, hyperparameters=knobs, resources=one))

    refused = run(READER)
    assert refused.exit_code == 1, refused.stderr
    assert refused.status["phase"] == "Succeeded"
    assert refused.status["publication"]["tries"] == 1
    assert "It is trained, and not uploaded: " in refused.stderr
    assert "the hub denies access" in refused.stderr
    assert "The same command tries again" in refused.stderr
    assert "follows at" not in refused.stderr, "nobody is there to try again"

    done = run(WRITER)
    assert done.exit_code == 0, done.stderr
    [published] = [one for one in done.status["conditions"] if one["type"] == "Published"]
    assert published["status"] == "True"
    assert done.status["publication"]["published"]["revision"] == hub.repository(REPO).branches["main"]
    files = hub.repository(REPO).commits[hub.repository(REPO).branches["main"]]
    steps = (folders.storage / "metrics.jsonl").read_text().splitlines()
    assert len(steps) == 2, f"{NAME} was not trained again"
    assert (
        json.loads(files["manifest.json"])["files"].keys() | {".gitattributes", "manifest.json"}
        == files.keys()
    )
    assert "model.safetensors" in files
