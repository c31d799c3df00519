"""The `finetune-trainer` command."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune_trainer.ends.signals import Stop
from finetune_trainer.offline import stay_offline


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; exits with a code of finetune_api.failure."""
    parser = argparse.ArgumentParser(prog="finetune-trainer", description="Trains what a RunConfig says.")
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="run this node's part of a training gang")
    measure = commands.add_parser("measure", help="tell what the data of a run is like, without training")
    prepare = commands.add_parser(
        "prepare",
        help="read, validate, tokenise and measure training data",
        description="Prepares the data of a run (--config), or any data for any model (--model, --data, --output).",
    )
    merge = commands.add_parser(
        "merge",
        help="write the model that a base model and an adapter are together",
        description="Merges the adapter of a run (--config), or any one (--model, --adapter, --output).",
    )
    publish = commands.add_parser("publish", help="upload the result of a run to where spec.publish says")
    for command in (train, measure, prepare, merge, publish):
        command.add_argument(
            "--config",
            type=Path,
            required=command in (train, measure, publish),
            metavar="FILE",
            help="the RunConfig, as JSON",
        )
    _add_options_of_preparation(prepare)
    _add_options_of_merging(merge)
    options = parser.parse_args(arguments)
    # What libraries read are local directories; nothing may be looked up elsewhere.
    stay_offline()
    # Each command imports what it takes. Those of a container's first process react to signals before that.
    if options.command == "measure":
        sys.exit(_measure(options))
    stop = Stop()
    if options.command == "prepare":
        exit_code = _prepare(prepare, options, stop)
    elif options.command == "merge":
        exit_code = _merge(merge, options, stop)
    elif options.command == "publish":
        from finetune_trainer.publishing import publish_run

        exit_code = publish_run(options.config, stop)
    else:
        from finetune_trainer.entrypoint import train as train_node

        exit_code = train_node(options.config, stop)
    stop.comes_too_late()
    sys.exit(exit_code)


def _add_options_of_preparation(prepare: argparse.ArgumentParser) -> None:
    group = prepare.add_argument_group("without a run")
    add = group.add_argument
    add("--model", type=Path, metavar="DIR", help="the model, of which tokenizer and config.json are needed")
    add("--data", type=Path, metavar="FILE", help="JSONL, JSON, Parquet or CSV, as its name ends")
    add("--output", type=Path, metavar="DIR", help="directory to make: datasets.load_from_disk opens it")
    add(
        "--max-seq-len", type=int, metavar="N", help="leave longer samples out (default: the model's context)"
    )
    add("--unmask-messages", action="store_true", help="loss on all messages but those of the system")
    add("--block-size", type=int, metavar="N", help="the data are documents: join and cut them to this size")
    add("--document-column", metavar="NAME", help="the column of the documents")
    add("--columns", type=_pairs, default={}, metavar="FIELD=NAME,…", help="as in spec.dataset.columns")
    add("--drop-invalid-rows", action="store_true", help="leave out what cannot be trained on")


def _add_options_of_merging(merge: argparse.ArgumentParser) -> None:
    add = merge.add_argument_group("without a run").add_argument
    add("--model", type=Path, metavar="DIR", help="the base model")
    add("--adapter", type=Path, metavar="DIR", help="the adapter, as peft loads it")
    add("--output", type=Path, metavar="DIR", help="directory to make, for the merged model")


def _pairs(text: str) -> dict[str, str]:
    pairs = [part.split("=", 1) for part in text.split(",")]
    if any(len(pair) != 2 for pair in pairs):
        raise argparse.ArgumentTypeError(f"{text!r} is not FIELD=NAME, such as messages=conversations")
    return dict(pairs)


def _measure(options: argparse.Namespace) -> int:
    from finetune_trainer.processes import leave_out_torch

    leave_out_torch()
    from finetune_trainer.measure import measure

    return measure(options.config)


def _belongs_to_run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> bool:
    """Whether a run is meant, of which the configuration says all."""
    own = [name for name, value in vars(options).items() if name not in ("command", "config") and value]
    if options.config and own:
        parser.error(f"--config and --{own[0].replace('_', '-')} exclude one another")
    return bool(options.config)


def _merge(parser: argparse.ArgumentParser, options: argparse.Namespace, stop: Stop) -> int:
    if _belongs_to_run(parser, options):
        from finetune_trainer.merging import merge_run

        return merge_run(options.config, stop)
    if not (options.model and options.adapter and options.output):
        parser.error("--config is needed, or --model, --adapter and --output")
    from finetune_trainer.merging_by_hand import merge_by_hand

    return merge_by_hand(options.model, options.adapter, options.output, stop)


def _prepare(parser: argparse.ArgumentParser, options: argparse.Namespace, stop: Stop) -> int:
    from finetune_trainer.processes import leave_out_torch

    leave_out_torch()
    if _belongs_to_run(parser, options):
        from finetune_trainer.preparing import prepare_run

        return prepare_run(options.config, stop)
    if not (options.model and options.data and options.output):
        parser.error("--config is needed, or --model, --data and --output")
    from pydantic import ValidationError

    from finetune_api.hyperparameters import Hyperparameters
    from finetune_api.sources import Columns
    from finetune_trainer.by_hand import Options, prepare_by_hand

    pretraining: dict[str, Any] | None = None
    if options.block_size is not None or options.document_column is not None:
        pretraining = {"blockSize": options.block_size, "documentColumnName": options.document_column}
    stated = {
        "maxSeqLen": options.max_seq_len,
        "unmaskMessages": options.unmask_messages,
        "pretraining": pretraining,
    }
    try:
        hyperparameters, columns = (
            Hyperparameters.model_validate(stated),
            Columns.model_validate(options.columns),
        )
    except ValidationError as error:
        faults = [
            f"{'.'.join(map(str, each['loc']))}: {each['msg']}".removeprefix(": ") for each in error.errors()
        ]
        parser.error("; ".join(faults))
    return prepare_by_hand(
        Options(
            options.model, options.data, options.output, hyperparameters, columns, options.drop_invalid_rows
        ),
        stop,
    )
