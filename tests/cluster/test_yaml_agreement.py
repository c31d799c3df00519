"""The command line reads YAML as kubectl does, and so takes what the API server takes."""

import json
import pathlib
import random
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from cluster.answers import ApiServer
from cluster.kube import Kube
from clusters.cluster import kubectl
from clusters.console import ClusterError
from finetune_operator import validation
from finetune_operator.cli import manifests
from finetune_operator.cli.kubectl_yaml import KubectlLoader
from generated import FIELDS, Path, fitting, replaced
from spellings import NOT_FINITE, SPELLINGS

FLOATS = [path for path, schema in FIELDS if schema["type"] == "number"]
# Whatever can be part of a number, a date or a truth.
ALPHABET = "0123456789+-._eExXoObBaAfFnNiItTyYuUlLsSrR:~"


def read_by_kubectl(kube: Kube, text: str) -> list[Any]:
    """The objects that kubectl would send; raises if it would send none."""
    arguments = ("create", "--dry-run=client", "--validate=false", "--output=json", "--filename=-")
    answer = kubectl(kube.kubeconfig, *arguments, stdin=text).strip()
    found, decoder = [], json.JSONDecoder(parse_int=go_number)
    while answer:
        document, end = decoder.raw_decode(answer)
        found.append(document)
        answer = answer[end:].strip()
    return found


def go_number(digits: str) -> int | float:
    """A whole number in JSON: what needs more than 64 bits was a float, and is written without an exponent."""
    return int(digits) if abs(int(digits)) < 2**63 else float(digits)


def document(path: Path, scalar: str) -> str:
    """A FineTuneJob with this text, unquoted, as the value of a field."""
    return yaml.safe_dump(replaced(fitting(path), path, "SCALAR")).replace("SCALAR", scalar)


def scalars() -> Iterator[str]:
    """Thousands of plain scalars that look like numbers, dates and truths; the same every time."""
    yield from SPELLINGS
    draw = random.Random(4)
    for _ in range(4000):
        scalar = "".join(draw.choices(ALPHABET, k=draw.randint(1, 7)))
        # A dash or a colon at these ends, or dots alone, are YAML's own.
        if scalar not in NOT_FINITE and scalar.strip("-.") and not scalar.endswith(":"):
            yield scalar


def test_a_plain_scalar_is_to_both_the_same(kube: Kube) -> None:
    texts = list(scalars())
    text = document(("hyperparameters",), "") + "values:\n" + "".join(f"- {scalar}\n" for scalar in texts)
    [by_kubectl] = read_by_kubectl(kube, text)
    mine = yaml.load(text, KubectlLoader)["values"]
    different = [
        (scalar, theirs, ours)
        for scalar, theirs, ours in zip(texts, by_kubectl["values"], mine, strict=True)
        # JSON writes 5.0 as 5, but True is not 1.
        if theirs != ours or isinstance(theirs, bool | str) != isinstance(ours, bool | str)
    ]
    assert not different
    assert sum(isinstance(value, int | float) for value in mine) > 300


def test_what_kubectl_takes_for_a_number_is_one_in_every_field(
    kube: Kube, api_server: ApiServer, tmp_path: pathlib.Path
) -> None:
    cases = [(path, scalar) for path in FLOATS for scalar in (*SPELLINGS, '"5e-6"', '"0.5"')]
    text = "---\n".join(document(path, scalar) for path, scalar in cases)
    file = tmp_path / "jobs.yaml"
    file.write_text(text)
    by_us = manifests.read([str(file)]).found
    taken = 0
    for case, (_, answer), ours in zip(
        cases, api_server.ask_all(read_by_kubectl(kube, text)), by_us, strict=True
    ):
        assert (ours.job is None) == (answer.stored is None), (case, ours.faults, answer.text)
        if ours.job is not None and answer.stored is not None:
            taken += 1
            stored, _ = validation.read(answer.stored)
            assert stored is not None
            assert ours.job.spec == stored.spec, case
    assert taken > len(FLOATS) * 8


@pytest.mark.parametrize("scalar", sorted(NOT_FINITE))
def test_what_is_not_finite_is_refused_by_both(kube: Kube, scalar: str, tmp_path: pathlib.Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(document(("hyperparameters", "learningRate"), scalar))
    with pytest.raises(ClusterError):
        read_by_kubectl(kube, file.read_text())
    [fault] = manifests.read([str(file)]).errors
    assert fault.finding.field == "spec.hyperparameters.learningRate"
    assert "must be a finite number" in fault.finding.message
