"""The operator's environment."""

from pathlib import Path

import pytest

from finetune_operator.settings import Settings, SettingsError


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    for file in ("tls.crt", "tls.key", "ca.crt"):
        (tmp_path / file).touch()
    return {
        "FINETUNE_TRAINER_IMAGE": "trainer:1",
        "FINETUNE_REPORT_URL": "https://operator.example:8443",
        "FINETUNE_TLS_DIR": str(tmp_path),
    }


def test_defaults(environment: dict[str, str]) -> None:
    settings = Settings.from_environment(environment)
    assert (settings.report_port, settings.webhook_port, settings.health_port) == (8443, 9443, 8080)
    assert settings.log_level == "INFO"
    assert (settings.hub_endpoint, settings.hub_offline) == (None, False)
    assert not settings.page


def test_a_mirror_of_the_hub_and_a_cluster_without_a_way_out(environment: dict[str, str]) -> None:
    stated = {"FINETUNE_HUB_ENDPOINT": "https://mirror.example/hf", "FINETUNE_HUB_OFFLINE": "true"}
    settings = Settings.from_environment(environment | stated)
    assert (settings.hub_endpoint, settings.hub_offline) == ("https://mirror.example/hf", True)


def test_every_fault_is_named_at_once() -> None:
    with pytest.raises(SettingsError) as error:
        Settings.from_environment({"FINETUNE_REPORT_PORT": "x", "FINETUNE_LOG_LEVEL": "loud"})
    for name in (
        "FINETUNE_TRAINER_IMAGE is not set",
        "FINETUNE_REPORT_URL is not set",
        "FINETUNE_TLS_DIR is not set",
        "FINETUNE_REPORT_PORT must be a port between 1 and 65535, not 'x'",
        "FINETUNE_LOG_LEVEL must be one of DEBUG, INFO, WARNING, ERROR, not 'LOUD'",
    ):
        assert name in str(error.value)


@pytest.mark.parametrize(
    ("name", "value", "fault"),
    [
        ("FINETUNE_REPORT_URL", "http://x", "must start with https://"),
        ("FINETUNE_REPORT_PORT", "0", "between 1 and 65535"),
        ("FINETUNE_WEBHOOK_PORT", "-1", "between 1 and 65535"),
        ("FINETUNE_HEALTH_PORT", "70000", "between 1 and 65535"),
        ("FINETUNE_HUB_ENDPOINT", "mirror.example", "must start with https:// or http://"),
        ("FINETUNE_HUB_OFFLINE", "yes", "must be true or false, not 'yes'"),
        ("FINETUNE_NAMESPACES", "team-a,", "names of namespaces with commas between them, and '' is none"),
        ("FINETUNE_NAMESPACES", "Team_A", "'Team_A' is none"),
        ("FINETUNE_PULL_SECRETS", "registry,-", "names of image pull secrets with commas"),
        ("FINETUNE_TLS_DIR", "/nowhere", "there is no file /nowhere/tls.crt"),
    ],
)
def test_a_value_that_cannot_be(environment: dict[str, str], name: str, value: str, fault: str) -> None:
    with pytest.raises(SettingsError, match=fault):
        Settings.from_environment(environment | {name: value})


def test_the_secrets_of_the_trainer_s_image(environment: dict[str, str]) -> None:
    assert Settings.from_environment(environment).pull_secrets == ()
    stated = {"FINETUNE_PULL_SECRETS": "registry.team,mirror"}
    assert Settings.from_environment(environment | stated).pull_secrets == ("registry.team", "mirror")


def test_the_namespaces_that_are_watched(environment: dict[str, str]) -> None:
    assert Settings.from_environment(environment).namespaces == ()
    stated = {"FINETUNE_NAMESPACES": "team-a, team-b,team-a"}
    assert Settings.from_environment(environment | stated).namespaces == ("team-a", "team-b")
