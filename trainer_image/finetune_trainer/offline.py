"""No library looks anything up on the Hugging Face Hub, but where that is what is wanted."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

_OFFLINE = "HF_HUB_OFFLINE"
# Of every single request to the hub.
SECONDS = 30.0
_FALSE = ("", "0", "false", "no", "off")
# What the administrator said, before this process said otherwise.
_ENV_WANTED = "FINETUNE_HUB_OFFLINE"


def stay_offline() -> None:
    """Have this process and those that it starts use local files only. To be called before libraries are imported."""
    os.environ.setdefault(_ENV_WANTED, os.environ.get(_OFFLINE, ""))
    os.environ[_OFFLINE] = "1"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"


def is_wanted() -> bool:
    """Whether the administrator has said that there is no hub."""
    return os.environ.get(_ENV_WANTED, os.environ.get(_OFFLINE, "")).lower() not in _FALSE


@contextmanager
def online() -> Iterator[None]:
    """Let huggingface_hub use the network, unless the administrator has said that there is none.

    It looks at its constant in every request, and at the environment only when it is imported. Requests that nobody
    answers end.
    """
    import httpx2
    from huggingface_hub import constants, set_client_factory
    from huggingface_hub.utils._http import default_client_factory

    def client() -> httpx2.Client:
        made = default_client_factory()
        made.timeout = httpx2.Timeout(SECONDS)
        return made

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = is_wanted()
    set_client_factory(client)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
        set_client_factory(default_client_factory)
