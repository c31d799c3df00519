"""The `finetune` command as a whole."""

import subprocess
import sys
from importlib.metadata import entry_points, version

import pytest

from terminal import VALID, finetune

COMMANDS = ["validate", "plan", "render", "run", "watch", "plot", "checkpoints", "logs", "explain"]


@pytest.mark.parametrize("arguments", [["--help"], *([command, "--help"] for command in COMMANDS)])
def test_help_is_plain_and_fits_a_terminal(arguments: list[str]) -> None:
    result = finetune(*arguments)
    assert result.exit_code == 0
    assert result.stdout.startswith("Usage: ")
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert "Exit code" in result.stdout or arguments == ["--help"]


def test_the_commands_are_listed_with_a_sentence_that_is_not_cut_off() -> None:
    listed = finetune("--help").stdout.partition("Commands:\n")[2].splitlines()
    assert [line.split()[0] for line in listed] == COMMANDS
    assert all(line.endswith(".") and not line.endswith("...") for line in listed)


def test_no_command_is_a_request_for_help() -> None:
    result = finetune()
    assert result.exit_code == 2
    assert result.output.startswith("Usage: ")
    assert "Commands:" in result.output


def test_a_misspelt_command_is_wrong_usage_with_a_suggestion() -> None:
    result = finetune("validat")
    assert result.exit_code == 2
    assert "Did you mean 'validate'?" in result.stderr


def test_the_version_is_that_of_the_package() -> None:
    result = finetune("--version")
    assert (result.exit_code, result.stdout) == (0, f"finetune {version('finetune-operator')}\n")


@pytest.mark.parametrize("arguments", [["--help"], ["validate", "-"], ["plan", "-"], ["render", "-"]])
def test_what_needs_no_cluster_does_not_wait_for_its_client(arguments: list[str]) -> None:
    code = (
        "import sys; from finetune_operator.cli.main import cli\n"
        "try: cli(sys.argv[1:])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "slow = {'kubernetes', 'kopf', 'aiohttp', 'torch'} & sys.modules.keys()\n"
        "sys.exit(f'imported: {slow}' if slow else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], input=VALID, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["finetune", "kubectl-finetune"])
def test_it_is_installed_by_its_name_and_as_a_plugin_of_kubectl(name: str) -> None:
    [script] = entry_points(group="console_scripts", name=name)
    assert script.value == "finetune_operator.cli.main:cli"


def test_a_shell_can_complete_it() -> None:
    code = "import sys; sys.argv = ['finetune']; from finetune_operator.cli.main import cli; cli()"
    environment = {"_FINETUNE_COMPLETE": "complete_bash", "COMP_WORDS": "finetune va", "COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["validate"]
