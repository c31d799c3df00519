"""The `finetune-trainer` command."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from finetune_trainer import entrypoint


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; exits with a code of finetune_api.failure."""
    parser = argparse.ArgumentParser(prog="finetune-trainer", description="Trains what a RunConfig says.")
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="run this node's part of a training gang")
    measure = commands.add_parser("measure", help="tell what the data of a run is like, without training")
    for command in (train, measure):
        command.add_argument(
            "--config", type=Path, required=True, metavar="FILE", help="the RunConfig, as JSON"
        )
    options = parser.parse_args(arguments)
    if options.command == "train":
        sys.exit(entrypoint.train(options.config))
    # Reading data takes libraries that a container's first process does without.
    from finetune_trainer.measure import measure as measure_data

    sys.exit(measure_data(options.config))
