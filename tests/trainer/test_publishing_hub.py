"""Uploading to a hub: one commit with the result and nothing else; what the hub has already is not sent again."""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from finetune_api.failure import ExitCode
from hub_uploads import READER, WRITER, UploadHub
from trainer.uploads import MIB, Ended, Trained, trained

REPO = "me/demo"
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
FILES = {
    "README.md": b"# A model",
    "config.json": b"{}",
    FIRST: os.urandom(MIB),
    SECOND: os.urandom(MIB),
}


@pytest.fixture
def hub() -> Iterator[UploadHub]:
    server = UploadHub()
    yield server
    server.close()


@pytest.fixture
def run(tmp_path: Path) -> Trained:
    return trained(tmp_path, FILES)


def upload(run: Trained, url: str, token: str = WRITER, **changes: object) -> Ended:
    stated = {"repo": REPO, "tokenSecretRef": {"name": "hub", "key": "token"}} | changes
    return run.publish({"HF_ENDPOINT": url, "HF_TOKEN": token}, huggingFace=stated)


def found(hub: UploadHub) -> dict[str, bytes]:
    repository = hub.repository(REPO)
    return repository.commits[repository.branches["main"]]


def test_the_result_is_one_commit_that_the_status_can_name(run: Trained, hub: UploadHub) -> None:
    ended = upload(run, hub.url)
    assert ended.exit_code == 0, ended.output
    files = dict(found(hub))
    manifest = json.loads(files.pop("manifest.json"))
    assert files == FILES | {".gitattributes": b""}
    assert manifest["files"].keys() == FILES.keys()
    assert len(hub.messages) == 1
    assert hub.private == {REPO: True}
    published = ended.report.published
    assert published is not None
    assert (published.target, published.revision) == (REPO, hub.repository(REPO).branches["main"])
    assert "HF_TOKEN" not in ended.output
    assert WRITER not in ended.output


def test_again_nothing_is_sent_and_no_commit_made(run: Trained, hub: UploadHub) -> None:
    first = upload(run, hub.url, private=False)
    sent, commits = list(hub.sent), len(hub.repository(REPO).commits)
    again = upload(run, hub.url, private=False)
    assert (again.exit_code, hub.sent, len(hub.repository(REPO).commits)) == (0, sent, commits)
    assert hub.private == {REPO: False}
    assert first.report.published is not None
    assert again.report.published is not None
    assert again.report.published.revision == first.report.published.revision


def test_an_earlier_result_is_replaced_and_other_files_stay(tmp_path: Path, hub: UploadHub) -> None:
    (tmp_path / "first").mkdir()
    upload(trained(tmp_path / "first", {"model.safetensors": b"one file", "config.json": b"{}"}), hub.url)
    repository = hub.repository(REPO)
    repository.commit(found(hub) | {"demo.ipynb": b"somebody's"})
    (tmp_path / "second").mkdir()
    ended = upload(trained(tmp_path / "second", FILES), hub.url)
    assert ended.exit_code == 0, ended.output
    assert found(hub).keys() == {*FILES, ".gitattributes", "demo.ipynb", "manifest.json"}


def test_what_the_hub_has_of_an_upload_that_was_cut_is_not_sent_again(run: Trained, hub: UploadHub) -> None:
    first, second = (hashlib.sha256(FILES[name]).hexdigest() for name in (FIRST, SECOND))
    hub.large[first] = FILES[FIRST]
    ended = upload(run, hub.url)
    assert (ended.exit_code, hub.sent) == (0, [second]), ended.output
    assert found(hub).keys() > FILES.keys()


@pytest.mark.parametrize(("token", "status"), [(READER, 403), ("nobody", 401)])
def test_a_token_that_may_not_write_is_named_with_its_secret(
    run: Trained, hub: UploadHub, token: str, status: int
) -> None:
    ended = upload(run, hub.url, token)
    assert ended.exit_code == ExitCode.ACCESS_DENIED
    assert (
        'spec.publish.huggingFace: Hugging Face repository "me/demo": the hub denies access' in ended.message
    )
    assert 'key "token" of Secret "hub"' in ended.message
    assert f"({status}: You may not write here)" in ended.message


def test_a_result_that_changed_since_is_not_committed(run: Trained, hub: UploadHub) -> None:
    (run.storage.output / SECOND).write_bytes(b"x" * MIB)
    ended = upload(run, hub.url)
    assert ended.exit_code == ExitCode.INVALID_CONFIGURATION
    assert "the result is damaged" in ended.message
    assert hub.messages == []


def test_where_the_administrator_has_no_hub_nothing_is_uploaded(run: Trained, hub: UploadHub) -> None:
    stated = {"repo": REPO, "tokenSecretRef": {"name": "hub", "key": "token"}}
    environment = {"HF_ENDPOINT": hub.url, "HF_TOKEN": WRITER, "HF_HUB_OFFLINE": "1"}
    ended = run.publish(environment, huggingFace=stated)
    assert ended.exit_code == ExitCode.INVALID_CONFIGURATION
    assert "HF_HUB_OFFLINE" in ended.message
    assert hub.private == {}
