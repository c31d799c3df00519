"""The `finetune` command as a user meets it: what goes in, and what comes out."""

from pathlib import Path
from typing import Any

import yaml
from typer.testing import CliRunner, Result

from finetune_operator.cli.kubectl_yaml import KubectlLoader
from finetune_operator.cli.main import cli

VALID = """\
apiVersion: finetune.dev/v1alpha1
kind: FineTuneJob
metadata:
  name: demo
  labels: {team: a}
spec:
  method: sft
  model: {volume: {claimName: models, path: base}}
  dataset:
    train: {volume: {claimName: data, path: train.jsonl}}
  hyperparameters:
    learningRate: 5e-6
    numEpochs: 2
  storage: {claimName: runs}
"""
# Something else that a repository holds.
SERVICE = "apiVersion: v1\nkind: Service\nmetadata: {name: other}\n"


def finetune(*arguments: str | Path, stdin: str | None = None) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], input=stdin)


def parsed(text: str) -> Any:
    """What kubectl reads."""
    return yaml.load(text, KubectlLoader)


def problems(text: str) -> list[str]:
    """The lines that `finetune validate` complains with, without the name of the file."""
    result = finetune("validate", "-", stdin=text)
    assert result.exit_code == 1, result.output
    return [line.removeprefix("<stdin>:") for line in result.stderr.splitlines()]
