"""The command line: one module per subcommand."""

import click

from finetune_operator.cli.render import render
from finetune_operator.cli.run import run
from finetune_operator.cli.validate import validate
from finetune_operator.cli.watch import watch


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="finetune-operator")
def cli() -> None:
    """Check, watch and run FineTuneJobs."""


for command in (validate, render, watch, run):
    cli.add_command(command)
