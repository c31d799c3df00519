"""A result on its way to the Hugging Face Hub: one commit, whose large files are sent before it, one after the other.

The hub knows files by their content: what it has already is not sent again, be it of an upload that was cut. Files go
over plain HTTPS, which mirrors understand too, and which tells how far it has come.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from finetune_api import names
from finetune_api.publish import HubRepository
from finetune_trainer import commit, offline
from finetune_trainer.commit import Manifest
from finetune_trainer.ends.errors import (
    AccessDeniedError,
    InvalidConfigurationError,
    TrainerError,
    of_system,
)
from finetune_trainer.sources.hub import may_pass
from finetune_trainer.sources.transfer import Patience, Progress
from finetune_trainer.uploads.contents import Content, Contents, Known, earlier, text

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError

# A later commit of somebody else's must not be taken for this one, nor a branch that is not looked at.
_BRANCH = "main"


def upload(
    repository: HubRepository, origin: str, result: Contents, credentials: Path, progress: Progress
) -> str:
    """Upload a result; returns the commit. Raises a TrainerError.

    The token is the file of that name in `credentials`. Where there is no such directory, the hub's own library looks
    for one: in HF_TOKEN, or of an earlier login.
    """
    if offline.is_wanted():
        raise InvalidConfigurationError(
            f"{origin}: the administrator has set HF_HUB_OFFLINE, so nothing is uploaded to a hub: publish to an "
            "object store, or have the setting changed"
        )
    token = _token(repository, origin, credentials)
    with offline.online():
        from huggingface_hub import HfApi, constants

        # It would take the place of HTTPS, and mirrors lack it.
        constants.HF_HUB_DISABLE_XET = True
        return _Upload(repository, origin, HfApi(token=token), progress).run(result)


def _token(repository: HubRepository, origin: str, credentials: Path) -> str | None:
    if not credentials.is_dir():
        return None
    try:
        return (credentials / names.TOKEN_FILE).read_text().strip()
    except OSError as error:
        raise of_system(error, f"{origin}: cannot read {_secret(repository)}") from None


class _Upload:
    def __init__(self, repository: HubRepository, origin: str, api: "HfApi", progress: Progress) -> None:
        self._repository = repository
        self._origin = origin
        self._api = api
        self._progress = progress

    def run(self, result: Contents) -> str:
        """Upload all of it; returns the commit."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        repo = self._repository
        with self._explained():
            self._patience("the repository").call(
                lambda: self._api.create_repo(repo.repo, private=repo.private, exist_ok=True)
            )
            before = self._manifest()
            there = set(self._patience("its files").call(lambda: self._api.list_repo_files(repo.repo)))
            additions = [self._sent(content) for content in result.files]
            manifest = CommitOperationAdd(commit.MANIFEST, text(result.manifest).encode())
            # Its history has them still.
            earlier_files = result.stale(Known().and_of(before))
            stale = [CommitOperationDelete(name) for name, _ in earlier_files if name in there]
            info = self._patience("the commit").call(
                lambda: self._api.create_commit(
                    repo.repo,
                    operations=[*additions, manifest, *stale],
                    commit_message=f"Upload the result of FineTuneJob {result.manifest.uid}",
                    revision=_BRANCH,
                )
            )
        return str(info.oid)

    def _sent(self, content: Content) -> "CommitOperationAdd":
        """A file, sent if it is a large one and the hub has not got it."""
        from huggingface_hub import CommitOperationAdd

        # The library reads it all, for the digest that the hub knows it by.
        file = _Shown(content.file, self._progress)
        addition = CommitOperationAdd(content.name, file)
        content.expect(addition.upload_info.sha256.hex())
        patience = self._patience(content.name)

        def send() -> None:
            self._api.preupload_lfs_files(
                self._repository.repo, [addition], revision=_BRANCH, free_memory=False
            )

        file.begin(patience)
        patience.call(send)
        file.end(content.record.bytes)
        return addition

    def _manifest(self) -> Manifest | None:
        """That of an earlier result."""
        from huggingface_hub import get_session, hf_hub_url
        from huggingface_hub.errors import EntryNotFoundError
        from huggingface_hub.utils import (  # type: ignore[attr-defined]
            build_hf_headers,
            hf_raise_for_status,
        )

        url = hf_hub_url(
            self._repository.repo, commit.MANIFEST, revision=_BRANCH, endpoint=self._api.endpoint
        )

        def get() -> bytes:
            answer = get_session().get(
                url, headers=build_hf_headers(token=self._api.token), follow_redirects=True
            )
            hf_raise_for_status(answer)
            content: bytes = answer.content
            return content

        try:
            return earlier(self._patience(commit.MANIFEST).call(get))
        except EntryNotFoundError:
            return None

    def _patience(self, what: str) -> Patience:
        return Patience(f"{self._origin}: {what}", may_pass, self._progress)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

        try:
            yield
        except LocalTokenNotFoundError:
            raise AccessDeniedError(f"{self._origin}: there is no token; set HF_TOKEN") from None
        except HfHubHTTPError as error:
            raise self._meaning(error) from error

    def _meaning(self, error: "HfHubHTTPError") -> TrainerError:
        status = error.response.status_code
        said = (error.server_message or str(error)).strip().partition("\n")[0]
        if status in (401, 403):
            return AccessDeniedError(
                f"{self._origin}: the hub denies access; it was asked with {_secret(self._repository)}, which has to "
                f"be allowed to write there ({status}: {said})"
            )
        if status in (400, 404, 422):
            return InvalidConfigurationError(
                f"{self._origin}: the hub does not accept it: look for owner and name ({status}: {said})"
            )
        return TrainerError(f"{self._origin}: the hub answers {status}: {said}")


class _Shown(io.BufferedReader):
    """A file that tells how much of it is sent."""

    def __init__(self, file: Path, progress: Progress) -> None:
        super().__init__(io.FileIO(file))
        self._progress = progress
        self._patience: Patience | None = None
        self._sent = 0

    def begin(self, patience: Patience) -> None:
        """From now on, what is read is sent."""
        self._patience = patience

    def end(self, size: int) -> None:
        """All of it is there."""
        self._patience = None
        self._progress.add(size - self._sent)

    def read(self, size: int | None = -1, /) -> bytes:
        """What it has next."""
        block = super().read(size)
        # Sent once more from its beginning, it is shown as before until it has come further.
        further = self.tell() - self._sent
        if self._patience is not None and further > 0:
            self._sent += further
            self._progress.add(further)
            self._patience.reset()
        else:
            self._progress.tick()
        return block


def _secret(repository: HubRepository) -> str:
    reference = repository.token_secret_ref
    return f'the token in key "{reference.key}" of Secret "{reference.name}"'
