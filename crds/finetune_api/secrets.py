"""References to Secrets. The operator reads none: the kubelet hands them to the one pod that needs them."""

from typing import Annotated

from pydantic import Field

from finetune_api.model import SpecModel
from finetune_api.scalars import SUBDOMAIN

SecretName = Annotated[str, Field(min_length=1, max_length=253, pattern=f"^{SUBDOMAIN}$", examples=["hub"])]
# Of a Secret or a ConfigMap. It becomes the name of a file, so none is made of dots, or begins with two.
ObjectKey = Annotated[
    str,
    Field(
        min_length=1,
        max_length=253,
        pattern=r"^\.?[-_a-zA-Z0-9][-._a-zA-Z0-9]*$",
        examples=["token"],
    ),
]

# What the credentials of an object store may be, by the names that each store's own client reads. Other keys of a
# Secret are not looked at.
OBJECT_STORE_KEYS = {
    "s3": (
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_REGION",
        "AWS_ENDPOINT_URL",
    ),
    "gs": ("GOOGLE_APPLICATION_CREDENTIALS_JSON", "STORAGE_EMULATOR_HOST"),
    "az": (
        "AZURE_STORAGE_CONNECTION_STRING",
        "AZURE_STORAGE_ACCOUNT_NAME",
        "AZURE_STORAGE_ACCOUNT_KEY",
        "AZURE_STORAGE_SAS_TOKEN",
        "AZURE_TENANT_ID",
        "AZURE_CLIENT_ID",
        "AZURE_CLIENT_SECRET",
    ),
}


class SecretReference(SpecModel):
    """A Secret of the job's namespace."""

    name: SecretName
    """Name of the Secret."""


class SecretKeyReference(SpecModel):
    """One key of a Secret of the job's namespace."""

    name: SecretName
    """Name of the Secret."""
    key: ObjectKey
    """Key in it."""
