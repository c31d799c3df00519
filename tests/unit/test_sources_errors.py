"""What the errors of object stores mean, as each store's own library raises them."""

import errno
import os

import aiohttp
import pytest
from azure.core import exceptions as azure
from botocore import exceptions as aws
from gcsfs.retry import HttpError
from google.auth import exceptions as google
from s3fs.errors import translate_boto_error

from finetune_api.sources import ObjectStore
from finetune_trainer.ends.errors import (
    AccessDeniedError,
    InvalidConfigurationError,
    TerminatedError,
    TrainerError,
)
from finetune_trainer.sources.store_errors import AbsentError, PassingError, explained, may_pass

STORES = {protocol: ObjectStore(uri=f"{protocol}://bucket/x.jsonl") for protocol in ("s3", "gs", "az")}
ORIGIN = 'spec.dataset.train: "x"'


def _aws(code: str, status: int = 400) -> Exception:
    said = {"Error": {"Code": code, "Message": "…"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    translated: Exception = translate_boto_error(aws.ClientError(said, "GetObject"))
    return translated


def _azure(status: int) -> Exception:
    error = azure.HttpResponseError("…")
    error.status_code = status
    return error


@pytest.mark.parametrize(
    ("protocol", "error", "meaning"),
    [
        ("s3", _aws("NoSuchBucket"), AbsentError),
        ("s3", _aws("404"), AbsentError),
        ("s3", _aws("AccessDenied"), AccessDeniedError),
        ("s3", _aws("InvalidAccessKeyId"), AccessDeniedError),
        ("s3", _aws("SignatureDoesNotMatch"), AccessDeniedError),
        ("s3", _aws("403"), AccessDeniedError),
        ("s3", aws.NoCredentialsError(), AccessDeniedError),
        ("s3", _aws("PermanentRedirect"), InvalidConfigurationError),
        ("s3", _aws("301"), InvalidConfigurationError),
        ("s3", _aws("AuthorizationHeaderMalformed"), InvalidConfigurationError),
        ("s3", _aws("SlowDown"), PassingError),
        ("s3", _aws("InternalError"), PassingError),
        ("s3", aws.EndpointConnectionError(endpoint_url="http://127.0.0.1"), PassingError),
        ("s3", aws.ConnectTimeoutError(endpoint_url="http://127.0.0.1"), PassingError),
        ("s3", aws.ReadTimeoutError(endpoint_url="http://127.0.0.1"), PassingError),
        ("s3", aiohttp.ServerDisconnectedError(), PassingError),
        ("s3", ConnectionResetError(), PassingError),
        ("s3", TimeoutError(), PassingError),
        ("s3", ValueError("?"), TrainerError),
        ("gs", HttpError({"code": 403, "message": "…"}), AccessDeniedError),
        ("gs", HttpError({"code": 404, "message": "…"}), AbsentError),
        ("gs", HttpError({"code": 503, "message": "…"}), PassingError),
        ("gs", google.DefaultCredentialsError("…"), AccessDeniedError),  # type: ignore[no-untyped-call]
        ("gs", google.RefreshError("…"), AccessDeniedError),  # type: ignore[no-untyped-call]
        ("gs", google.TransportError("…"), PassingError),  # type: ignore[no-untyped-call]
        ("az", _azure(403), AccessDeniedError),
        ("az", _azure(404), AbsentError),
        ("az", _azure(503), PassingError),
        ("az", azure.ClientAuthenticationError("…"), AccessDeniedError),
        ("az", azure.ServiceRequestError("…"), PassingError),
    ],
)
def test_every_library_s_errors_have_one_meaning(
    protocol: str, error: Exception, meaning: type[Exception]
) -> None:
    with pytest.raises(meaning) as caught, explained(STORES[protocol], ORIGIN):
        raise error
    assert type(caught.value) is meaning
    assert may_pass(caught.value) is (meaning is PassingError)
    if issubclass(meaning, TrainerError):
        assert str(caught.value).startswith(ORIGIN)


def test_what_the_volume_says_is_not_of_the_store() -> None:
    """Who writes what came does so outside; a full volume is not waited for."""
    assert not may_pass(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))


def test_a_request_to_stop_is_passed_on() -> None:
    with pytest.raises(TerminatedError), explained(STORES["s3"], ORIGIN):
        raise TerminatedError("asked to stop")
