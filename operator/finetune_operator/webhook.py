"""The admission webhook: kopf serves it, admission.py decides.

It advises and it catches mistakes, but it guards nothing: whatever passes is judged again when it is reconciled. So
nobody is ever blocked by a fault of its own. Whoever reaches its port may ask it; it knows only what it is asked.
"""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import kopf

from finetune_operator.admission import review
from finetune_operator.certificate import CERTIFICATE_FILE, KEY_FILE, Certificate
from finetune_operator.monitoring.watch_health import Watch
from finetune_operator.tenancy import Policy

logger = logging.getLogger(__name__)

UNPROCESSABLE = 422
NEVER_SECONDS = 100.0 * 365 * 24 * 3600


def server(tls_dir: Path, certificate: Certificate, port: int) -> kopf.WebhookServer:
    """The HTTPS server, with the certificate of the directory."""
    return kopf.WebhookServer(
        port=port,
        context=certificate.context,
        # Where it is told of no certificate, kopf makes one itself; where it finds one changed that is of no use, it
        # dies. So it is told of this one, and does not look again.
        certfile=tls_dir / CERTIFICATE_FILE,
        pkeyfile=tls_dir / KEY_FILE,
        file_check_interval=NEVER_SECONDS,
    )


def register(registry: kopf.OperatorRegistry, policy: Callable[[], Policy]) -> None:
    """Answer the API server under /validate: kopf takes the path from the handler's id.

    `policy` tells what the administrator has set, as it is now.
    """

    # No coroutine: kopf gives it a thread, so that no spec, however large, holds up the event loop.
    def judge(**arguments: Any) -> None:
        validate(policy(), **arguments)

    kopf.on.validate(*Watch.FINETUNEJOBS.kopf_selector, registry=registry, id="validate")(judge)


def validate(
    policy: Policy,
    body: Mapping[str, Any],
    warnings: list[str],
    name: str | None,
    namespace: str | None,
    old: Mapping[str, Any] | None = None,
    **_: Any,
) -> None:
    """Judge a FineTuneJob that is created, or changed from `old`, and add to the `warnings` that kubectl prints.

    Raises AdmissionError when it is denied, and nothing else: to kopf any exception is a denial.
    """
    about = {"namespace": namespace, "job": name}
    try:
        verdict = review(dict(body), None if old is None else dict(old), policy)
    except Exception:
        logger.exception("a FineTuneJob could not be judged, and was let through", extra=about)
        return
    warnings += verdict.warnings
    if verdict.denials:
        logger.info("denied: %s", "; ".join(verdict.denials), extra=about)
        raise kopf.AdmissionError(verdict.refusal, code=UNPROCESSABLE)
