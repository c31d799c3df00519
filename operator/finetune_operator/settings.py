"""The operator's settings, from its environment."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from finetune_api.scalars import DNS_LABEL, SUBDOMAIN
from finetune_operator.certificate import CA_FILE, CERTIFICATE_FILE, KEY_FILE

LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
_LABEL = re.compile(DNS_LABEL)
_SUBDOMAIN = re.compile(SUBDOMAIN)


class SettingsError(Exception):
    """The environment is not what the operator needs; the message names every fault."""


@dataclass(frozen=True)
class Settings:
    """What the operator is started with."""

    trainer_image: str
    report_url: str
    """Base URL under which pods reach the report endpoint."""
    tls_dir: Path
    """Directory of the report endpoint's tls.crt, tls.key and ca.crt."""
    report_port: int
    webhook_port: int
    """Where the API server asks about FineTuneJobs, with the same certificate."""
    health_port: int
    log_level: str
    hub_endpoint: str | None = None
    """A mirror in the place of the Hugging Face Hub."""
    hub_offline: bool = False
    """Whether pods ask for nothing over the network there."""
    page: bool = False
    """Whether to serve the page, on the pod's loopback only."""
    page_port: int = 8081
    pull_secrets: tuple[str, ...] = ()
    """Secrets, in the namespaces of jobs, with which their image may be pulled."""
    namespaces: tuple[str, ...] = ()
    """The namespaces whose jobs are the operator's; none named: all of the cluster."""
    policy_file: Path | None = None
    """What the administrator allows and fills in, by namespace."""

    @property
    def report_host(self) -> str:
        """The host of report_url, for which the certificate has to be."""
        return urlsplit(self.report_url).hostname or ""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Settings":
        """Read FINETUNE_* variables. Raises SettingsError."""
        faults: list[str] = []

        def text(name: str, default: str = "") -> str:
            value = environment.get(name, "") or default
            if not value:
                faults.append(f"{name} is not set")
            return value

        def port(name: str, default: int) -> int:
            value = environment.get(name, "") or str(default)
            if not value.isdecimal() or not 0 < int(value) < 65536:
                faults.append(f"{name} must be a port between 1 and 65535, not {value!r}")
                return default
            return int(value)

        def switch(name: str) -> bool:
            value = environment.get(name, "").lower() or "false"
            if value not in ("true", "false"):
                faults.append(f"{name} must be true or false, not {value!r}")
            return value == "true"

        def several(name: str, what: str, pattern: re.Pattern[str]) -> tuple[str, ...]:
            value = environment.get(name, "")
            found = tuple(word.strip() for word in value.split(",")) if value else ()
            faults.extend(
                f"{name} must have names of {what} with commas between them, and {word!r} is none"
                for word in found
                if not pattern.fullmatch(word)
            )
            return tuple(dict.fromkeys(found))

        settings = cls(
            trainer_image=text("FINETUNE_TRAINER_IMAGE"),
            report_url=text("FINETUNE_REPORT_URL"),
            tls_dir=Path(text("FINETUNE_TLS_DIR")),
            report_port=port("FINETUNE_REPORT_PORT", 8443),
            webhook_port=port("FINETUNE_WEBHOOK_PORT", 9443),
            health_port=port("FINETUNE_HEALTH_PORT", 8080),
            log_level=text("FINETUNE_LOG_LEVEL", "INFO").upper(),
            hub_endpoint=environment.get("FINETUNE_HUB_ENDPOINT") or None,
            hub_offline=switch("FINETUNE_HUB_OFFLINE"),
            page=switch("FINETUNE_PAGE"),
            page_port=port("FINETUNE_PAGE_PORT", 8081),
            pull_secrets=several("FINETUNE_PULL_SECRETS", "image pull secrets", _SUBDOMAIN),
            namespaces=several("FINETUNE_NAMESPACES", "namespaces", _LABEL),
            policy_file=Path(file) if (file := environment.get("FINETUNE_POLICY_FILE")) else None,
        )
        if settings.report_url and not settings.report_url.startswith("https://"):
            faults.append(f"FINETUNE_REPORT_URL must start with https://, not be {settings.report_url!r}")
        endpoint = settings.hub_endpoint
        if endpoint is not None and not endpoint.startswith(("https://", "http://")):
            faults.append(f"FINETUNE_HUB_ENDPOINT must start with https:// or http://, not be {endpoint!r}")
        if settings.log_level not in LOG_LEVELS:
            faults.append(
                f"FINETUNE_LOG_LEVEL must be one of {', '.join(LOG_LEVELS)}, not {settings.log_level!r}"
            )
        if environment.get("FINETUNE_TLS_DIR"):
            faults += [
                f"FINETUNE_TLS_DIR: there is no file {settings.tls_dir / file}"
                for file in (CERTIFICATE_FILE, KEY_FILE, CA_FILE)
                if not (settings.tls_dir / file).is_file()
            ]
        if faults:
            raise SettingsError("; ".join(faults))
        return settings
