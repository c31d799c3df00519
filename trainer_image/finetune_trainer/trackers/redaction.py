"""Text that may be logged, although it comes from a service that knows our secrets."""

import os
import re

_SECRETS = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "WANDB_API_KEY")
# https://user:password@host
_USER_OF_URL = re.compile(r"(?<=://)[^/@\s]*@")


def redacted(text: str) -> str:
    """`text` without the values of secret variables, and without users and passwords in URLs."""
    for variable in _SECRETS:
        if value := os.environ.get(variable):
            text = text.replace(value, "***")
    return _USER_OF_URL.sub("***@", text)
