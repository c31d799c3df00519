"""`finetune watch`: its options. What it does is tested against a real API server."""

import pytest
from typer.testing import CliRunner

from finetune_operator.cli.main import cli
from finetune_operator.cli.watch import duration


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("30m", 1800), ("1h30m", 5400), ("2h0m5s", 7205)])
def test_durations_are_read_as_kubectl_reads_them(text: str, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["90", "m", "1d", "-5s", "1h 30m", ""])
def test_other_durations_are_wrong_usage(text: str) -> None:
    result = CliRunner().invoke(cli, ["watch", "demo", f"--timeout={text}"])
    assert result.exit_code == 2
    assert "is not a duration such as 90s, 30m or 1h30m" in result.stderr
