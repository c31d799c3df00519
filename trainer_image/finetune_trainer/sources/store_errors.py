"""What the errors of object stores mean. Each store's library has its own."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from finetune_api.secrets import OBJECT_STORE_KEYS
from finetune_api.sources import ObjectStore
from finetune_trainer.ends.errors import AccessDeniedError, InvalidConfigurationError, KnownEnd, TrainerError

_LATER = (408, 425, 429)


class PassingError(Exception):
    """The store is away, or busy."""


class AbsentError(Exception):
    """The store has no such bucket or object."""


def may_pass(error: Exception) -> bool:
    """Whether it is worth another trial."""
    return isinstance(error, PassingError)


@contextmanager
def explained(store: ObjectStore, origin: str) -> Iterator[None]:
    """Raise what the store's errors mean: PassingError, AbsentError, or a TrainerError that begins with `origin`."""
    try:
        yield
    except KnownEnd:
        raise
    except Exception as error:
        raise _meaning(error, store, origin) from error


def _meaning(error: Exception, store: ObjectStore, origin: str) -> Exception:
    said = f"{type(error).__name__}: {error}"
    denied, passing = _kinds(store.protocol)
    status = _status(error)
    if isinstance(error, FileNotFoundError) or status == 404:
        return AbsentError(said)
    if isinstance(error, (PermissionError, *denied)) or status in (401, 403):
        return AccessDeniedError(
            f"{origin}: the store denies access; it was asked with {_asked_with(store)} ({said})"
        )
    busy = isinstance(error, OSError) and error.errno in (errno.EBUSY, errno.EREMOTEIO)
    if busy or isinstance(error, (ConnectionError, TimeoutError, *passing)):
        return PassingError(said)
    if status is not None and (status in _LATER or status >= 500):
        return PassingError(said)
    if isinstance(error, OSError) and error.errno in (errno.EREMCHG, errno.EINVAL):
        return InvalidConfigurationError(
            f"{origin}: the store does not accept the request; the bucket may be in another region than "
            f"AWS_REGION says, or in another store than AWS_ENDPOINT_URL; keys may be of another one ({said})"
        )
    return TrainerError(f"{origin}: {said}")


def _status(error: Exception) -> int | None:
    """The HTTP status that an error of gcsfs (code) or of azure (status_code) has."""
    found = getattr(error, "status_code", None) or getattr(error, "code", None)
    try:
        return int(found) if found is not None else None
    except (TypeError, ValueError):
        return None


@cache
def _kinds(protocol: str) -> tuple[tuple[type[Exception], ...], tuple[type[Exception], ...]]:
    """Errors that mean that access is denied, and those that may pass."""
    import aiohttp

    if protocol == "s3":
        from botocore import exceptions as aws

        denied = (aws.NoCredentialsError, aws.PartialCredentialsError, aws.CredentialRetrievalError)
        return denied, (
            aws.ConnectionError,
            aws.HTTPClientError,
            aws.IncompleteReadError,
            aiohttp.ClientError,
        )
    if protocol == "gs":
        from google.auth import exceptions as google

        return (google.DefaultCredentialsError, google.RefreshError), (
            google.TransportError,
            aiohttp.ClientError,
        )
    from azure.core import exceptions as azure

    passing = (azure.ServiceRequestError, azure.ServiceResponseError, aiohttp.ClientError)
    return (azure.ClientAuthenticationError,), passing


def _asked_with(store: ObjectStore) -> str:
    reference = store.credentials_secret_ref
    if reference is None:
        return "what the pod's own identity allows, for credentialsSecretRef is not set"
    return f'the keys of Secret "{reference.name}" ({", ".join(OBJECT_STORE_KEYS[store.protocol][:2])}, …)'
