"""Inputs that cannot be had, and results that cannot be taken: what is told, and what goes on once that is mended."""

import json
import re
from typing import Any

import pytest

from e2e.jobs import condition, manifest, save_inputs, status, wait_for_upload
from e2e.namespace import Namespace
from e2e.object_store import BUCKET, ObjectStore, secret, stored


@pytest.fixture(scope="module")
def inputs(namespace: Namespace, store: ObjectStore) -> Namespace:
    """A tiny model, and data on a claim and in the store."""
    save_inputs(namespace, samples=12)
    store.put("refused/train.jsonl", (namespace.claim("data") / "train.jsonl").read_bytes())
    return namespace


def small_job(name: str, **spec: Any) -> dict[str, Any]:
    job = manifest(name, nodes=1, numEpochs=1)
    job["spec"] |= spec
    return job


def test_a_secret_that_is_not_there_is_waited_for_and_named(inputs: Namespace, store: ObjectStore) -> None:
    data = stored("refused/train.jsonl", "later")
    inputs.apply(small_job("secretless", dataset={"train": data}))
    inputs.follow(
        "secretless", lambda found: '"later"' in json.dumps(found.get("conditions")).replace("\\", "")
    )
    inputs.apply(secret("later", store.credentials))
    inputs.wait("secretless", "condition=Succeeded")


def test_who_may_not_read_is_told_so_and_nothing_is_trained(inputs: Namespace, store: ObjectStore) -> None:
    inputs.apply(secret("wrong", store.credentials | {"AWS_SECRET_ACCESS_KEY": "mistyped"}))
    data = stored("refused/train.jsonl", "wrong")
    inputs.apply(small_job("denied", dataset={"train": data}))
    inputs.wait("denied", "condition=Stalled")
    found = status(inputs, "denied")
    prepared = condition(found, "Prepared")
    assert (found["phase"], prepared["reason"], found["attempts"]) == ("Failed", "AccessDenied", [])
    for told in (f"s3://{BUCKET}/refused/train.jsonl", 'Secret "wrong"'):
        assert told in prepared["message"]


def test_who_may_not_publish_is_told_so_and_the_result_goes_out_once_they_may(
    inputs: Namespace, store: ObjectStore
) -> None:
    wrong = secret("writer", store.credentials | {"AWS_SECRET_ACCESS_KEY": "mistyped"})
    inputs.apply(wrong)
    job = small_job("unpublished", publish=stored("published/unpublished", "writer"))
    inputs.apply(job)
    wait_for_upload(inputs, "unpublished", "False")
    found = status(inputs, "unpublished")
    published = condition(found, "Published")
    assert (found["phase"], published["reason"]) == ("Succeeded", "AccessDenied")
    assert 'Secret "writer"' in published["message"]
    inputs.apply(secret("writer", store.credentials))
    wait_for_upload(inputs, "unpublished", "True")
    assert [attempt["number"] for attempt in status(inputs, "unpublished")["attempts"]] == [1]
    assert "manifest.json" in store.objects("published/unpublished/")


def test_a_link_that_leads_out_of_its_volume_is_not_followed(inputs: Namespace) -> None:
    (inputs.claim("data") / "outside.jsonl").symlink_to("/etc/passwd")
    data = {"volume": {"claimName": "data", "path": "outside.jsonl"}}
    inputs.apply(small_job("outside", dataset={"train": data}))
    inputs.wait("outside", "condition=Stalled")
    message = condition(status(inputs, "outside"), "Prepared")["message"]
    assert '"outside.jsonl" on claim "data"' in message
    assert re.search("leads? out", message)
