"""The command line: one module per subcommand."""

from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from finetune_operator.cli.checkpoints import checkpoints
from finetune_operator.cli.errors import CommandError
from finetune_operator.cli.explain import explain
from finetune_operator.cli.logs import logs
from finetune_operator.cli.plan import plan
from finetune_operator.cli.plot import plot
from finetune_operator.cli.render import render
from finetune_operator.cli.run import run
from finetune_operator.cli.validate import validate
from finetune_operator.cli.watch import watch


class Commands(TyperGroup):
    """The subcommands, in the order of their registration."""

    def invoke(self, ctx: Any) -> Any:
        """Run the subcommand; what it cannot do is a message, not a traceback."""
        try:
            return super().invoke(ctx)
        except CommandError as error:
            typer.echo(f"Error: {error}", err=True)
            raise typer.Exit(1) from error


# Without markup, help and errors are plain lines: they survive pipes, logs and copying.
cli = typer.Typer(
    cls=Commands,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"finetune {version('finetune-operator')}")
        raise typer.Exit


@cli.callback()
def finetune(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Check, plan, run and watch FineTuneJobs."""


for command in (validate, plan, render, run, watch, plot, checkpoints, logs, explain):
    cli.command()(command)
