"""`finetune plan`: what will be trained, what it needs, and whether it fits, before anything runs."""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from finetune_api import names
from finetune_api.facts import DataFacts
from finetune_api.plan import Study, study
from finetune_api.sources import DATA_SUFFIXES
from finetune_api.spec import FineTuneJob
from finetune_operator.cli import diagnostics, files, manifests
from finetune_operator.cli.diagnostics import Diagnostic
from finetune_operator.cli.errors import CommandError
from finetune_operator.cli.manifests import Manifest
from finetune_operator.cli.measuring import Counted, counted, measured_facts, obstacle
from finetune_operator.cli.model_config import model_facts
from finetune_operator.cli.output import OutputOption, write
from finetune_operator.cli.plan_view import PlanView
from finetune_operator.cli.validate import verdict

# Of data that is wrong throughout, nobody reads more.
MAX_FAULTS_OF_DATA = 20


@dataclass(frozen=True)
class Planned:
    """A valid job and what is known of it."""

    manifest: Manifest
    job: FineTuneJob
    data: DataFacts | None
    study: Study

    @property
    def findings(self) -> list[Diagnostic]:
        """What the rules have to say, at its lines."""
        return [self.manifest.locate(found) for found in self.study.findings]

    def to_wire(self) -> dict[str, Any]:
        """The JSON-ready form."""
        return {
            **verdict(self.manifest),
            "plan": self.study.plan.to_wire(),
            "remedies": [
                {"change": remedy.change, "memoryPerGpu": remedy.estimate} for remedy in self.study.remedies
            ],
        }


def plan(
    arguments: files.Arguments,
    model_config: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            exists=True,
            help="The base model's config.json, or its directory: for exact numbers. Otherwise its size is guessed "
            "from its name.",
        ),
    ] = None,
    dataset: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            exists=True,
            dir_okay=False,
            help=f"The training data ({', '.join(DATA_SUFFIXES)}): for the number of steps, and what suits data of "
            "its size. Measured as for training if --model-config is a model's directory with its tokenizer; "
            "otherwise lines of JSONL are counted.",
        ),
    ] = None,
    output: OutputOption = "text",
) -> None:
    """Show what FineTuneJobs would train, and what it takes.

    Values that a job leaves open are chosen and explained, memory and checkpoints are counted, and where a job does not
    fit its GPUs, changes are listed after which it does. Needs neither a cluster nor GPUs.

    Exit code: 0 planned, 1 a job is not valid or certain not to fit, 2 wrong usage.
    """
    model = model_facts(model_config) if model_config else None
    found = manifests.read(arguments)
    planned = []
    # The data are the same for all jobs.
    count = cache(counted)
    for manifest, job in found.valid:
        data = _data(job, model_config, dataset, count, tell=output == "text") if dataset else None
        planned.append(Planned(manifest, job, data, study(job.spec, model, data)))
    findings = [finding for each in planned for finding in each.findings]
    if output == "text":
        diagnostics.show(found.errors)
        for number, each in enumerate(planned):
            if number > 0:
                typer.echo()
            _show(each)
    else:
        jobs = [each.to_wire() for each in planned]
        jobs += [verdict(manifest) for manifest in found.found if manifest.job is None]
        every = [diagnostic.to_wire() for diagnostic in [*found.errors, *findings]]
        write({"jobs": jobs, "findings": every}, output)
    if any(diagnostic.is_error for diagnostic in [*found.errors, *findings]):
        raise typer.Exit(1)
    if not found.found:
        raise manifests.none_found(arguments)


def _show(planned: Planned) -> None:
    console = Console(highlight=False, markup=False)
    heading = Text.assemble(
        (f"{names.SINGULAR}/{planned.job.metadata.name}", "bold"),
        (f"  {planned.manifest.file}:{planned.manifest.line}", "dim"),
    )
    with console.capture() as captured:
        console.print(heading, soft_wrap=True)
        console.print(PlanView(planned.job, planned.study, planned.data))
    # Cells are padded; what is read by diff and grep should not be.
    sys.stdout.writelines(f"{line.rstrip()}\n" for line in captured.get().splitlines())


def _data(
    job: FineTuneJob,
    model_config: Path | None,
    dataset: Path,
    count: Callable[[Path], Counted | None],
    *,
    tell: bool,
) -> DataFacts | None:
    """What is known of a job's data: measured where that can be done here, and counted where not."""
    why_not = obstacle(model_config)
    if why_not is None:
        assert model_config is not None
        return measured_facts(job, model_config, dataset)
    found = count(dataset)
    if found is not None and found.faults and job.spec.dataset.invalid_rows == "Fail":
        _show_faults(dataset, found.faults)
        raise typer.Exit(1)
    if found is not None and not found.samples:
        raise CommandError(f"{dataset}: there is no sample in it")
    if tell:
        typer.echo(f"{dataset}: {_how(found)}: {why_not}", err=True)
    # Lines of documents are no samples: those are blocks of them.
    if found is None or job.spec.hyperparameters.pretraining is not None:
        return None
    return DataFacts(samples=found.samples - _held_back(job, found.samples))


def _held_back(job: FineTuneJob, samples: int) -> int:
    """Samples that spec.dataset.validationSplit keeps from training, if no two are alike: such stay together."""
    share = job.spec.dataset.validation_split
    if share is None or samples < 2:
        return 0
    return min(max(1, math.ceil(share * samples - 0.5)), samples - 1)


def _how(found: Counted | None) -> str:
    if found is None:
        return "neither counted nor measured"
    match len(found.faults):
        case 0:
            return "counted, not measured"
        case 1:
            return "counted without a line that is no sample, not measured"
        case faults:
            return f"counted without {faults:,} lines that are no samples, not measured"


def _show_faults(file: Path, faults: list[Diagnostic]) -> None:
    shown = faults[:MAX_FAULTS_OF_DATA]
    diagnostics.show(shown)
    if more := len(faults) - len(shown):
        typer.echo(f"{file}: and {more:,} more", err=True)
