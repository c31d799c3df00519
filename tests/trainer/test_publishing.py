"""Uploading: what arrives is the result and nothing else, and what was cut goes on where it was."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from finetune_api import names
from finetune_api.failure import ExitCode
from finetune_api.report import Stage
from finetune_api.sources import ObjectStore
from finetune_trainer import commit
from finetune_trainer.ends.errors import InvalidConfigurationError, TrainerError
from finetune_trainer.sources import transfer
from finetune_trainer.sources.transfer import Progress
from finetune_trainer.uploads import to_object_store
from finetune_trainer.uploads.contents import contents
from plug import Plug
from trainer.uploads import MIB, Trained, trained

BUCKET = "models"
URI = f"s3://{BUCKET}/demo"
FILES = {
    "config.json": b"{}",
    "model-00001-of-00002.safetensors": os.urandom(MIB),
    "model-00002-of-00002.safetensors": os.urandom(MIB),
    "tokenizer.json": b"{}",
}
STORE = {"objectStore": {"uri": URI}}


@dataclass(frozen=True)
class Store:
    """An S3 server, as who looks into it past the plug, and as who uploads."""

    client: Any
    plug: Plug
    environment: dict[str, str]

    def objects(self) -> dict[str, bytes]:
        """All that lies in the bucket."""
        listed = self.client.list_objects_v2(Bucket=BUCKET).get("Contents", [])
        return {one["Key"]: self.get(one["Key"]) for one in listed}

    def get(self, key: str) -> bytes:
        content: bytes = self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
        return content

    def put(self, key: str, content: bytes) -> None:
        self.client.put_object(Bucket=BUCKET, Key=key, Body=content)


@pytest.fixture
def store() -> Iterator[Store]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    address = server.get_host_and_port()
    plug = Plug(address)
    keys = {"AWS_ACCESS_KEY_ID": "me", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}
    client = boto3.client(
        "s3",
        endpoint_url=f"http://{address[0]}:{address[1]}",
        aws_access_key_id="me",
        aws_secret_access_key="secret",
        region_name="us-east-1",
    )
    client.create_bucket(Bucket=BUCKET)
    through = f"http://{plug.address[0]}:{plug.address[1]}"
    yield Store(client, plug, keys | {"AWS_ENDPOINT_URL": through})
    for key in [one["Key"] for one in client.list_objects_v2(Bucket=BUCKET).get("Contents", [])]:
        client.delete_object(Bucket=BUCKET, Key=key)
    client.delete_bucket(Bucket=BUCKET)
    plug.close()
    server.stop()


@pytest.fixture
def run(tmp_path: Path) -> Trained:
    return trained(tmp_path, FILES)


def upload(run: Trained, store: Store, monkeypatch: pytest.MonkeyPatch, patience: float = 300) -> int:
    """Upload to the store, in this process; returns the bytes that went over the line."""
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(transfer, "PATIENCE", patience)
    before = store.plug.passed("up")
    result = contents(run.storage, "here", run.base)
    progress = Progress(URI, result.manifest.bytes, lambda _: None)
    try:
        target = ObjectStore(uri=URI)
        to_object_store.upload(target, "spec.publish.objectStore", result, run.base / "none", progress)
    finally:
        store.plug.put_back()
    return store.plug.passed("up") - before


def test_the_result_arrives_with_its_manifest_and_nothing_else(run: Trained, store: Store) -> None:
    ended = run.publish(store.environment, **STORE)
    assert ended.exit_code == 0, ended.output
    found = store.objects()
    manifest = json.loads(found.pop("demo/manifest.json"))
    assert found == {f"demo/{name}": content for name, content in FILES.items()}
    assert manifest["files"].keys() == FILES.keys()
    assert manifest["uid"] == run.storage.uid
    report = ended.report
    assert (report.attempt, report.stage, report.transfer) == (names.PUBLISHING, Stage.FINISHED, None)
    assert report.published is not None
    size = sum(map(len, FILES.values()))
    assert (report.published.target, report.published.bytes) == (URI, size)
    assert "files of" in run.storage.log(names.PUBLISHING, 0).read_text()


def test_a_merged_model_is_at_the_root_and_its_adapter_beside_it(tmp_path: Path, store: Store) -> None:
    adapter = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"small", "README.md": b"adapter"}
    model = {"config.json": b"{}", "model.safetensors": b"large", "README.md": b"model"}
    ended = trained(tmp_path, adapter, merged=model).publish(store.environment, **STORE)
    assert ended.exit_code == 0, ended.output
    found = store.objects()
    manifest = json.loads(found.pop("demo/manifest.json"))
    expected = model | {f"adapter/{name}": content for name, content in adapter.items()}
    assert found == {f"demo/{name}": content for name, content in expected.items()}
    assert (manifest["files"].keys(), manifest["facts"]["format"]) == (expected.keys(), "model")


def test_what_is_there_is_not_sent_again(run: Trained, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    assert upload(run, store, monkeypatch) > 2 * MIB
    assert upload(run, store, monkeypatch) < MIB // 4


def test_what_was_cut_goes_on_with_the_file_that_it_was_at(
    run: Trained, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.plug.pull_after(MIB + MIB // 2, "up")
    with pytest.raises(TrainerError, match="nothing came for 0 seconds"):
        upload(run, store, monkeypatch, patience=0)
    there = store.objects()
    assert "demo/model-00001-of-00002.safetensors" in there
    assert "demo/model-00002-of-00002.safetensors" not in there
    assert "demo/manifest.json" not in there, "who sees it sees all"
    assert MIB < upload(run, store, monkeypatch) < 1.25 * MIB
    assert store.get("demo/model-00002-of-00002.safetensors") == FILES["model-00002-of-00002.safetensors"]
    assert "demo/manifest.json" in store.objects()


def test_a_store_that_comes_back_is_waited_for(
    run: Trained, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.plug.pull_after(MIB + MIB // 2, "up")
    waited = Progress.pause

    def put_back(progress: Progress, seconds: float) -> None:
        store.plug.put_back()
        waited(progress, 0)

    monkeypatch.setattr(Progress, "pause", put_back)
    upload(run, store, monkeypatch)
    assert len(store.objects()) == len(FILES) + 1


def test_a_line_that_stays_dead_is_an_error_that_is_tried_again(
    run: Trained, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.plug.pull()
    with pytest.raises(TrainerError) as ended:
        upload(run, store, monkeypatch, patience=0)
    assert ended.value.exit_code == ExitCode.ERROR
    assert str(ended.value).startswith("spec.publish.objectStore: ")


def test_large_files_go_in_parts(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(to_object_store, "_PART_BYTES", 5 * MIB)
    large = os.urandom(12 * MIB)
    upload(trained(tmp_path, {"model.safetensors": large}), store, monkeypatch)
    told = store.client.head_object(Bucket=BUCKET, Key="demo/model.safetensors")
    assert told["ETag"].endswith('-3"')
    assert store.get("demo/model.safetensors") == large


def test_another_content_of_the_same_size_is_replaced(
    run: Trained, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put("demo/config.json", b"[]")
    upload(run, store, monkeypatch)
    assert store.get("demo/config.json") == FILES["config.json"]


def test_what_is_not_ours_stays_and_an_earlier_result_goes(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "first").mkdir()
    earlier = {"config.json": b"{}", "model.safetensors": b"one file", "tokenizer.json": b"{}", "notes": b"x"}
    upload(trained(tmp_path / "first", earlier), store, monkeypatch)
    store.put("demo/notes", b"y")  # somebody has put theirs in its place
    store.put("demo/somebody's", b"z")
    (tmp_path / "second").mkdir()
    upload(trained(tmp_path / "second", FILES), store, monkeypatch)
    found = store.objects()
    assert "demo/model.safetensors" not in found, "transformers would load it, and not the new one"
    assert (found["demo/notes"], found["demo/somebody's"]) == (b"y", b"z")
    assert json.loads(found["demo/manifest.json"])["files"].keys() == FILES.keys()
    assert "demo/manifest.replaced.json" not in found


def test_a_result_that_replaces_another_has_no_manifest_until_it_is_whole(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, files in (("first", {"model.safetensors": b"one file"}), ("second", FILES)):
        (tmp_path / name).mkdir()
        run = trained(tmp_path / name, files)
        if name == "second":
            store.plug.pull_after(MIB + MIB // 2, "up")
            with pytest.raises(TrainerError):
                upload(run, store, monkeypatch, patience=0)
            assert "demo/manifest.json" not in store.objects()
        upload(run, store, monkeypatch)
    assert "demo/model.safetensors" not in store.objects(), "what was to go is known after the cut, too"


@pytest.mark.parametrize("large", ["a.safetensors", "z.safetensors"])
@pytest.mark.parametrize("published", [False, True])
def test_what_was_cut_for_good_does_not_stay_beside_another_result(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch, large: str, published: bool
) -> None:
    whole = {"model.safetensors": b"whole", "config.json": b"{}"}
    cut = {"model.safetensors": b"never whole", large: os.urandom(2 * MIB)}
    results = [whole, cut, FILES] if published else [cut, FILES]
    for number, files in enumerate(results):
        (tmp_path / str(number)).mkdir()
        run = trained(tmp_path / str(number), files)
        if files is not cut:
            upload(run, store, monkeypatch)
            continue
        # Before the small file, or after it.
        store.plug.pull_after(MIB, "up")
        with pytest.raises(TrainerError):
            upload(run, store, monkeypatch, patience=0)
        assert "demo/manifest.json" not in store.objects()
        sent = b"never whole" if large > "model" else b"whole" if published else None
        assert store.objects().get("demo/model.safetensors") == sent
    assert store.objects().keys() == {f"demo/{name}" for name in (*FILES, "manifest.json")}


def test_a_store_that_lets_nothing_be_deleted_has_the_result_all_the_same(
    run: Trained, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("retention policy")

    with monkeypatch.context() as retaining:
        retaining.setattr("s3fs.S3FileSystem.rm_file", refuse)
        upload(run, store, monkeypatch)
    assert store.objects().keys() >= {f"demo/{name}" for name in (*FILES, "manifest.json")}
    upload(run, store, monkeypatch)
    assert store.objects().keys() == {f"demo/{name}" for name in (*FILES, "manifest.json")}


def test_what_an_earlier_version_was_replacing_goes_too(
    run: Trained, store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "first").mkdir()
    upload(trained(tmp_path / "first", {"model.safetensors": b"one file"}), store, monkeypatch)
    # It kept the manifest as it was.
    store.put("demo/manifest.replaced.json", store.get("demo/manifest.json"))
    store.client.delete_object(Bucket=BUCKET, Key="demo/manifest.json")
    upload(run, store, monkeypatch)
    assert store.objects().keys() == {f"demo/{name}" for name in (*FILES, "manifest.json")}


def test_a_damaged_result_leaves_a_good_one_published(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("good", "damaged"):
        (tmp_path / name).mkdir()
    good = {"config.json": b"{}", "model.safetensors": b"one file"}
    upload(trained(tmp_path / "good", good), store, monkeypatch)
    before = store.objects()
    run = trained(tmp_path / "damaged", FILES)
    (run.storage.output / "tokenizer.json").write_bytes(b"[]")
    with pytest.raises(InvalidConfigurationError, match=r"the result is damaged: .*tokenizer\.json"):
        upload(run, store, monkeypatch)
    assert store.objects() == before


@pytest.mark.parametrize("where", ["output", "merged"])
def test_a_result_that_changed_since_is_not_uploaded(tmp_path: Path, store: Store, where: str) -> None:
    run = trained(tmp_path, {"adapter_model.safetensors": b"small"}, merged={"model.safetensors": b"large"})
    [file] = (getattr(run.storage, where)).glob("*.safetensors")
    file.write_bytes(b"x" * file.stat().st_size)
    ended = run.publish(store.environment, **STORE)
    assert ended.exit_code == ExitCode.INVALID_CONFIGURATION
    assert "the result is damaged" in ended.message
    assert not [name for name in store.objects() if name.endswith(file.name) or "manifest" in name]


def test_a_link_that_leads_out_of_the_volume_is_not_followed(tmp_path: Path, store: Store) -> None:
    (tmp_path / "run-base").mkdir()
    run = trained(tmp_path / "run-base", FILES)
    elsewhere = tmp_path / "secret"
    elsewhere.write_bytes(FILES["config.json"])
    (run.storage.output / "config.json").unlink()
    (run.storage.output / "config.json").symlink_to(elsewhere)
    ended = run.publish(store.environment, **STORE)
    assert (ended.exit_code, store.objects()) == (ExitCode.INVALID_CONFIGURATION, {})
    assert "leads out of its volume" in ended.message


def test_a_run_without_a_result_has_nothing_to_upload(run: Trained, store: Store) -> None:
    commit.remove(run.storage.output)
    ended = run.publish(store.environment, **STORE)
    assert (ended.exit_code, store.objects()) == (ExitCode.INVALID_CONFIGURATION, {})
    assert "has no complete result in output" in ended.message


def test_a_bucket_that_is_missing_is_named(run: Trained, store: Store) -> None:
    ended = run.publish(store.environment, objectStore={"uri": "s3://nowhere/demo"})
    assert ended.exit_code == ExitCode.INVALID_CONFIGURATION
    assert 'spec.publish.objectStore: "s3://nowhere/demo": there is no such bucket' in ended.message


def test_without_credentials_access_is_denied_and_the_field_named(run: Trained, store: Store) -> None:
    endpoint = {
        "AWS_ENDPOINT_URL": store.environment["AWS_ENDPOINT_URL"],
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    ended = run.publish(endpoint, **STORE)
    assert (ended.exit_code, store.objects()) == (ExitCode.ACCESS_DENIED, {})
    assert f'spec.publish.objectStore: "{URI}": the store denies access' in ended.message
