"""`finetune validate`: the rules of the API server, without one, and the advice of the guide."""

from typing import Annotated, Any

import typer

from finetune_api import names
from finetune_api.facts import Severity
from finetune_api.plan import study
from finetune_operator.cli import diagnostics, files, manifests
from finetune_operator.cli.diagnostics import Diagnostic
from finetune_operator.cli.manifests import Manifest, Manifests
from finetune_operator.cli.output import OutputOption, write


def validate(
    arguments: files.Arguments,
    output: OutputOption = "text",
    ignore_not_found: Annotated[
        bool,
        typer.Option(
            "--ignore-not-found",
            help="Accept files without any FineTuneJob, for hooks that are given every file that changed.",
        ),
    ] = False,
) -> None:
    """Check FineTuneJobs before they are applied.

    The rules are those of the API server, with unknown fields as errors as in kubectl --validate=strict; the warnings
    are the guide's. Both go to standard error, each with its file, line and field, and valid jobs to standard output.

    Exit code: 0 all are valid, 1 some are not, 2 wrong usage. Warnings do not count.
    """
    found = manifests.read(arguments)
    warnings = [warning for manifest in found.found for warning in _warnings(manifest)]
    if output == "text":
        if not ignore_not_found:
            for note in found.skipped:
                typer.echo(note, err=True)
        diagnostics.show([*found.errors, *warnings])
        for _, job in found.valid:
            typer.echo(f"{names.SINGULAR}/{job.metadata.name} is valid")
    else:
        write(_document(found, warnings), output)
    if found.errors:
        raise typer.Exit(1)
    if not found.found and not ignore_not_found:
        raise manifests.none_found(arguments)


def verdict(manifest: Manifest) -> dict[str, Any]:
    """Which job it is, and whether it is valid, in JSON-ready form."""
    return {
        "file": manifest.file,
        "line": manifest.line,
        "namespace": manifest.stated("namespace"),
        "name": manifest.stated("name"),
        "valid": manifest.job is not None,
    }


def _warnings(manifest: Manifest) -> list[Diagnostic]:
    if manifest.job is None:
        return []
    findings = study(manifest.job.spec).findings
    return [manifest.locate(found) for found in findings if found.severity is not Severity.NOTE]


def _document(found: Manifests, warnings: list[Diagnostic]) -> dict[str, Any]:
    return {
        "jobs": [verdict(manifest) for manifest in found.found],
        "findings": [diagnostic.to_wire() for diagnostic in [*found.errors, *warnings]],
    }
