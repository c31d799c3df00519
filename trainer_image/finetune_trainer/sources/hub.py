"""Repositories of the Hugging Face Hub: what a revision stands for, and files of it in the hub's own cache layout.

The hub's library is asked for everything but the content: it begins a file anew in every process, and large ones would
never arrive over a bad line. Whoever knows the cache of that library knows this one; it may be filled by other means.
"""

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from finetune_api.sources import HubSource
from finetune_trainer import commit, offline
from finetune_trainer.ends.errors import (
    AccessDeniedError,
    InvalidConfigurationError,
    TrainerError,
    of_system,
)
from finetune_trainer.sources.transfer import Patience, Progress, Wanted, fetch_all

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.hf_api import RepoFile

_BLOCK = 1 << 20
_LATER = (408, 429)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_ETAG = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


@dataclass(frozen=True)
class Repository:
    """A repository, and where the files of it go."""

    source: HubSource
    kind: Literal["model", "dataset"]
    origin: str
    """What messages call it."""
    downloads: Path
    """Directory of all downloads."""
    credentials: Path
    """Directory with a file `token`; where it is missing, the token is that of the environment, if there is one."""

    @property
    def directory(self) -> str:
        """Of all its revisions, below the directory of downloads."""
        return f"huggingface/{self.kind}s--{self.source.repo.replace('/', '--')}"

    def snapshot(self, commit_hash: str) -> str:
        """Directory of the files of a commit, below the directory of downloads."""
        return f"{self.directory}/snapshots/{commit_hash}"

    @cached_property
    def token(self) -> str | None:
        """The token to use, if there is one. Raises a TrainerError."""
        if not self.credentials.is_dir():
            return os.environ.get("HF_TOKEN") or None
        try:
            return (self.credentials / "token").read_text().strip()
        except OSError as error:
            raise of_system(error, f"{self.origin}: cannot read its token, {self._secret}") from None

    def resolve(self, progress: Progress) -> str:
        """The commit that its revision stands for now. Raises a TrainerError."""
        source = self.source
        with self._explained():
            info = self._patience(progress).call(
                lambda: self._api.repo_info(
                    source.repo, repo_type=self.kind, revision=source.revision, timeout=offline.SECONDS
                )
            )
        if info.sha is None or not _COMMIT.fullmatch(info.sha):
            raise TrainerError(f"{self.origin}: the hub says that its commit is {info.sha}, which is none")
        return info.sha

    def files(self, commit_hash: str, progress: Progress) -> dict[str, "RepoFile"]:
        """The files of a commit, by their paths. Raises a TrainerError."""
        from huggingface_hub.hf_api import RepoFile

        def listed() -> list[Any]:
            repo, kind = self.source.repo, self.kind
            return list(self._api.list_repo_tree(repo, repo_type=kind, revision=commit_hash, recursive=True))

        with self._explained():
            entries = self._patience(progress).call(listed)
        files = {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}
        # Mirrors may be anybody's, and these become paths on the volume.
        strange = [
            path
            for path, file in files.items()
            if path.startswith("/") or ".." in path.split("/") or not _ETAG.fullmatch(_etag(file))
        ]
        if strange:
            raise TrainerError(
                f'{self.origin}: the hub lists "{strange[0]}", which is no file of a repository'
            )
        return files

    def fetch(self, files: Sequence["RepoFile"], commit_hash: str, writer: str, progress: Progress) -> None:
        """Fetch files of a commit, and make them visible. Raises a TrainerError, OSError of the volume."""
        home = self.downloads / self.directory
        wanted = [self._wanted(file, commit_hash) for file in files]
        with self._explained():
            fetch_all(wanted, writer, may_pass, progress)
        snapshot = self.downloads / self.snapshot(commit_hash)
        for file, one in zip(files, wanted, strict=True):
            link = snapshot / file.path
            link.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError):
                link.symlink_to(os.path.relpath(one.final, link.parent))
        commit.flush(snapshot)
        if self.source.revision != commit_hash:
            ref = home / "refs" / self.source.revision
            ref.parent.mkdir(parents=True, exist_ok=True)
            temporary = ref.with_name(f"{ref.name}.{writer}")
            temporary.write_text(commit_hash)
            temporary.replace(ref)

    def cached(self, commit_hash: str | None) -> str:
        """The commit of which files are here already, for a cluster without the hub.

        Raises InvalidConfigurationError if there are none.
        """
        home = self.downloads / self.directory
        stated = commit_hash or self.source.revision
        with suppress(FileNotFoundError):
            stated = (home / "refs" / stated).read_text().strip()
        if not (home / "snapshots" / stated).is_dir():
            raise InvalidConfigurationError(
                f"{self.origin} is not here, and the administrator has set HF_HUB_OFFLINE: put it to "
                f"{home.parent} on the storage claim, in the cache layout of huggingface_hub (with network: "
                f"hf download {self.source.repo} --revision {self.source.revision} --repo-type {self.kind} "
                f"--cache-dir DIR), or name a model or file on a claim"
            )
        return stated

    def _wanted(self, file: "RepoFile", commit_hash: str) -> Wanted:
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

        url = hf_hub_url(self.source.repo, file.path, repo_type=self.kind, revision=commit_hash)
        etag = _etag(file)
        locks = self.downloads / "huggingface" / ".locks" / Path(self.directory).name
        return Wanted(
            final=self.downloads / self.directory / "blobs" / etag,
            size=file.size,
            read=partial(_read, url, build_hf_headers(token=self.token or False)),
            lock=locks / f"{etag}.lock",
            what=f"{self.origin}: {file.path}",
            digest=etag,
            hasher=hashlib.sha256 if file.lfs else partial(_git, file.size),
        )

    @cached_property
    def _api(self) -> "HfApi":
        from huggingface_hub import HfApi

        return HfApi(token=self.token or False)

    def _patience(self, progress: Progress) -> Patience:
        return Patience(self.origin, may_pass, progress)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        from huggingface_hub.errors import HfHubHTTPError

        try:
            yield
        except HfHubHTTPError as error:
            raise self._meaning(error) from error

    def _meaning(self, error: "HfHubHTTPError") -> TrainerError:
        from huggingface_hub.errors import GatedRepoError, RevisionNotFoundError

        source, status = self.source, error.response.status_code
        said = (error.server_message or str(error)).strip().partition("\n")[0]
        if isinstance(error, RevisionNotFoundError):
            return InvalidConfigurationError(
                f'{self.origin}: the repository "{source.repo}" has no revision "{source.revision}"'
            )
        if isinstance(error, GatedRepoError):
            return AccessDeniedError(
                f"{self.origin}: the repository is gated: accept its conditions on the hub with the account of "
                f"{self._secret} ({status}: {said})"
            )
        if status in (401, 403):
            return AccessDeniedError(
                f"{self.origin}: the hub denies access, or has no such repository; it was asked with "
                f"{self._secret} ({status}: {said})"
            )
        if status == 404:
            return InvalidConfigurationError(
                f'{self.origin}: the hub has no {self.kind} repository "{source.repo}" with revision '
                f'"{source.revision}" ({status}: {said})'
            )
        return TrainerError(f"{self.origin}: the hub answers {status}: {said}")

    @property
    def _secret(self) -> str:
        reference = self.source.token_secret_ref
        if reference is None:
            return "no token, for tokenSecretRef is not set"
        return f'the token in key "{reference.key}" of Secret "{reference.name}"'


def may_pass(error: Exception) -> bool:
    """Whether it is worth another trial."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError

    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in _LATER or error.response.status_code >= 500
    return isinstance(error, httpx2.TransportError) and not isinstance(error, httpx2.UnsupportedProtocol)


def _read(url: str, headers: Mapping[str, str], start: int) -> Iterator[bytes]:
    from huggingface_hub import get_session
    from huggingface_hub.utils import hf_raise_for_status  # type: ignore[attr-defined]

    # Lengths and positions are those of the file, not of what a proxy makes of it.
    asked = {**headers, "Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    # Redirected to another host, the client leaves the token out.
    with get_session().stream("GET", url, headers=asked) as response:
        if response.is_error:
            response.read()
        hf_raise_for_status(response)
        # Who does not know ranges sends it all.
        unwanted = start if response.status_code == 200 else 0
        for block in response.iter_bytes(_BLOCK):
            wanted = block[unwanted:]
            unwanted -= len(block) - len(wanted)
            if wanted:
                yield wanted


def _etag(file: "RepoFile") -> str:
    """What the hub calls it: the digest of the content, or that of git for small files."""
    return file.lfs.sha256 if file.lfs else file.blob_id


def _git(size: int) -> "hashlib._Hash":
    """What git makes its names of: the digest of a header and the content."""
    return hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
