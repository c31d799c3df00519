"""The page that tells of metrics and alerts."""

import asyncio
import re
from pathlib import Path

import yaml

from finetune_operator.monitoring.logs import FIELDS
from finetune_operator.monitoring.metrics import Metrics
from world import START

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "observability.md").read_text()
ALERTS = ROOT / "charts" / "finetune-operator" / "files" / "alerts.yaml"


def exposed() -> set[str]:
    """Every metric that the operator has, by the name that queries use."""
    metrics = Metrics(lambda: START)
    metrics.watches(dict, dict)
    found = set(re.findall(r"^# TYPE (finetune_\w+)", asyncio.run(metrics.text()).decode(), re.MULTILINE))
    assert found
    return found


def test_every_metric_is_on_the_page_and_no_other() -> None:
    tables = set(re.findall(r"^\| `(finetune_\w+)`", PAGE, re.MULTILINE))
    assert tables == exposed()


def test_every_alert_has_a_runbook_and_points_to_it() -> None:
    headings = set(re.findall(r"^### (FineTune\w+)$", PAGE, re.MULTILINE))
    rules = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
    assert headings == {rule["alert"] for rule in rules}
    for rule in rules:
        assert rule["annotations"]["runbook"] == f"docs/observability.md#{rule['alert'].lower()}"


def test_the_page_tells_the_same_fields_of_logs_as_the_code() -> None:
    for field in FIELDS:
        assert f"`{field}`" in PAGE
