"""Where a result goes besides the job's own storage."""

import hashlib

from finetune_api.model import SpecModel
from finetune_api.secrets import SecretKeyReference
from finetune_api.sources import HubRepo, ObjectStore, exactly_one


class HubRepository(SpecModel):
    """A model repository of the Hugging Face Hub, or of a mirror that the administrator has set."""

    repo: HubRepo
    """Owner and name; made if it is missing."""
    private: bool = True
    """Whether a repository that is made is private."""
    token_secret_ref: SecretKeyReference
    """Token that may write there."""

    def __str__(self) -> str:
        """It in the words of the spec."""
        return f'Hugging Face repository "{self.repo}"'


class Publish(SpecModel):
    """Where to upload what training leaves behind, once it succeeded: exactly one of objectStore and huggingFace."""

    object_store: ObjectStore | None = None
    """A prefix in an object store."""
    hugging_face: HubRepository | None = None
    """A repository."""

    rules = (exactly_one("objectStore", "huggingFace"),)

    @property
    def target(self) -> str:
        """Where it goes, as status.publication names it."""
        if self.object_store is not None:
            return self.object_store.uri.rstrip("/")
        assert self.hugging_face is not None
        return self.hugging_face.repo

    @property
    def digest(self) -> str:
        """What tells one such request from another, credentials included, in hexadecimal."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]
