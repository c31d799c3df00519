"""The upload of a run's result (spec.publish), as the first process of a pod without GPUs, when all else is done.

It may be done again at any time: the result is read only, and what is at the target already is not sent again.
"""

import logging
from datetime import UTC, datetime
from pathlib import Path

from finetune_api import names
from finetune_api.publication import Published
from finetune_api.report import Stage, Transfer
from finetune_api.runconfig import RunConfig
from finetune_trainer import alone, checks
from finetune_trainer.alone import Words, Work
from finetune_trainer.ends.errors import InvalidConfigurationError, described
from finetune_trainer.ends.signals import Stop
from finetune_trainer.reports.reporter import Reporter
from finetune_trainer.sources import containment
from finetune_trainer.sources.transfer import Progress
from finetune_trainer.storage import Storage
from finetune_trainer.uploads.contents import contents

_log = logging.getLogger(__name__)

WORDS = Words(name="the upload", product="the uploaded result", undone="the result was uploaded")


def publish_run(file: Path, stop: Stop) -> int:
    """Upload the result of the run whose RunConfig is `file`; returns an exit code of finetune_api.failure."""
    return alone.run(Work(names.PUBLISHING, WORDS, _check, _publish), file, stop)


def _check(config: RunConfig) -> None:
    if config.publish is None:
        raise InvalidConfigurationError(
            "spec.publish is not set, so there is nowhere to upload the result to"
        )
    checks.check_storage(config, node=0)


def _publish(config: RunConfig, storage: Storage, reporter: Reporter) -> None:
    publish = config.publish
    assert publish is not None
    where = described(config.storage, storage.root)
    result = contents(storage, where, containment.root_of_storage(config))
    total = result.manifest.bytes

    def show(done: Transfer) -> None:
        reporter.tick(transfer=done)

    progress = Progress(publish.target, total, show)
    begun = Transfer(of=publish.target[:256], bytes=0, total_bytes=total)
    reporter.stage(Stage.PUBLISHING, transfer=begun, published=None)
    credentials = Path(names.credentials_dir(names.PUBLISH_CREDENTIALS))
    revision: str | None = None
    # Their libraries are many, and who goes to one store has no use for the others'.
    if publish.object_store is not None:
        from finetune_trainer.uploads import to_object_store

        store = publish.object_store
        to_object_store.upload(store, f"spec.publish.objectStore: {store}", result, credentials, progress)
    else:
        from finetune_trainer.uploads import to_hub

        assert publish.hugging_face is not None
        hub = publish.hugging_face
        revision = to_hub.upload(hub, f"spec.publish.huggingFace: {hub}", result, credentials, progress)
    published = Published(target=publish.target, revision=revision, bytes=total, time=datetime.now(UTC))
    _log.info("%d files of %d bytes are in %s", len(result.files), total, publish.target)
    reporter.stage(Stage.FINISHED, transfer=None, published=published)
