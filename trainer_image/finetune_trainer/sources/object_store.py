"""Access to object stores: one file system for each, by fsspec."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fsspec import AbstractFileSystem

from finetune_api.secrets import OBJECT_STORE_KEYS
from finetune_api.sources import ObjectStore
from finetune_trainer.ends.errors import InvalidConfigurationError, of_system

# Of every single request. Whoever calls goes on for longer than that: a store may be away for a while.
_CONNECT_SECONDS = 10
_READ_SECONDS = 60

# What goes together with what, where a Secret has one of the two.
_PAIRS = {
    "AWS_ACCESS_KEY_ID": "AWS_SECRET_ACCESS_KEY",
    "AWS_SECRET_ACCESS_KEY": "AWS_ACCESS_KEY_ID",
    "AZURE_STORAGE_ACCOUNT_KEY": "AZURE_STORAGE_ACCOUNT_NAME",
    "AZURE_STORAGE_SAS_TOKEN": "AZURE_STORAGE_ACCOUNT_NAME",
    "AZURE_CLIENT_SECRET": "AZURE_CLIENT_ID",
}


def filesystem(store: ObjectStore, credentials: Path) -> tuple[AbstractFileSystem, str]:
    """The file system of a store, and the path in it.

    Credentials are files in the directory `credentials`, named like the keys of finetune_api.secrets. Where there is no
    such directory, the store's own client looks for them: environment, identity of the pod. Listings are not cached.
    Raises InvalidConfigurationError for credentials that cannot be.
    """
    protocol, _, path = store.uri.partition("://")
    keys = _read(store, credentials)
    if protocol == "s3":
        return _s3(keys), path
    if protocol == "gs":
        return _google(store, keys), path
    return _azure(keys), path


def endpoint(store: ObjectStore, credentials: Path) -> str:
    """What tells two stores apart that have buckets of the same name; empty where the protocol does."""
    keys = _read(store, credentials)
    told = ("AWS_ENDPOINT_URL", "STORAGE_EMULATOR_HOST", "AZURE_STORAGE_ACCOUNT_NAME")
    return next((keys[key] for key in told if key in keys), "")


def _read(store: ObjectStore, credentials: Path) -> Mapping[str, str]:
    known = OBJECT_STORE_KEYS[store.protocol]
    if not credentials.is_dir():
        return {key: os.environ[key] for key in known if os.environ.get(key)}
    try:
        files = {key: credentials / key for key in known if (credentials / key).exists()}
        keys = {key: file.read_text().strip() for key, file in files.items()}
    except OSError as error:
        raise of_system(error, f"{store}: cannot read {_secret(store)}") from None
    except UnicodeDecodeError:
        raise InvalidConfigurationError(f"{store}: {_secret(store)} has a value that is no text") from None
    if not keys:
        raise InvalidConfigurationError(
            f"{store}: {_secret(store)} has none of the keys that are looked at: {', '.join(known)}"
        )
    for key, other in _PAIRS.items():
        if key in keys and other not in keys:
            raise InvalidConfigurationError(f"{store}: {_secret(store)} has {key}, and not {other}: add it")
    return keys


def _secret(store: ObjectStore) -> str:
    reference = store.credentials_secret_ref
    return f'Secret "{reference.name}"' if reference else "the Secret with its credentials"


def _s3(keys: Mapping[str, str]) -> AbstractFileSystem:
    import s3fs

    region = keys.get("AWS_REGION")
    return s3fs.S3FileSystem(
        key=keys.get("AWS_ACCESS_KEY_ID"),
        secret=keys.get("AWS_SECRET_ACCESS_KEY"),
        token=keys.get("AWS_SESSION_TOKEN"),
        endpoint_url=keys.get("AWS_ENDPOINT_URL"),
        client_kwargs={"region_name": region} if region else {},
        config_kwargs={
            "connect_timeout": _CONNECT_SECONDS,
            "read_timeout": _READ_SECONDS,
            "retries": {"mode": "standard", "max_attempts": 3},
        },
        use_listings_cache=False,
        skip_instance_cache=True,
    )


def _google(store: ObjectStore, keys: Mapping[str, str]) -> AbstractFileSystem:
    # The class that gcsfs offers asks over gRPC, for a minute, before each request, what kind of bucket it is, wherever
    # that is not answered: by emulators, and from networks that let HTTPS out alone.
    from gcsfs.core import GCSFileSystem

    token: str | dict[str, Any] | None = None
    if text := keys.get("GOOGLE_APPLICATION_CREDENTIALS_JSON"):
        try:
            token = json.loads(text)
        except ValueError:
            raise InvalidConfigurationError(
                f"{store}: {_secret(store)} has no JSON in GOOGLE_APPLICATION_CREDENTIALS_JSON"
            ) from None
    elif "STORAGE_EMULATOR_HOST" in keys:
        # Emulators know nobody.
        token = "anon"
    return GCSFileSystem(
        # Without a token: the application default credentials, of which the pod's own identity is one.
        token=token or "google_default",
        endpoint_url=keys.get("STORAGE_EMULATOR_HOST"),
        requests_timeout=_READ_SECONDS,
        # It alone of these clients has to be told to heed HTTPS_PROXY and its like.
        session_kwargs={"trust_env": True},
        use_listings_cache=False,
        skip_instance_cache=True,
    )


def _azure(keys: Mapping[str, str]) -> AbstractFileSystem:
    import adlfs

    return adlfs.AzureBlobFileSystem(
        connection_string=keys.get("AZURE_STORAGE_CONNECTION_STRING"),
        account_name=keys.get("AZURE_STORAGE_ACCOUNT_NAME"),
        account_key=keys.get("AZURE_STORAGE_ACCOUNT_KEY"),
        sas_token=keys.get("AZURE_STORAGE_SAS_TOKEN"),
        tenant_id=keys.get("AZURE_TENANT_ID"),
        client_id=keys.get("AZURE_CLIENT_ID"),
        client_secret=keys.get("AZURE_CLIENT_SECRET"),
        # Without any of these: the default credential, of which the pod's own identity is one.
        anon=False,
        connection_timeout=_CONNECT_SECONDS,
        read_timeout=_READ_SECONDS,
        use_listings_cache=False,
        skip_instance_cache=True,
    )
