"""docs/threat-model.md names tests that there are, for every threat; and what is proven by reading alone."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune_api.crd import custom_resource_definition

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "threat-model.md").read_text()
PROOF = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def threats() -> list[tuple[str, str, str]]:
    """Every row of every table: threat, defence, proof."""
    rows = [line.strip("|").split(" | ") for line in PAGE.splitlines() if line.startswith("| ")]
    cells = [tuple(cell.strip() for cell in row) for row in rows]
    assert all(len(row) == 3 for row in cells), cells
    return [(threat, defence, proof) for threat, defence, proof in cells if threat != "Threat"]


def functions(file: Path) -> set[str]:
    """The names of a file's tests."""
    found = ast.walk(ast.parse(file.read_text()))
    return {node.name for node in found if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize("threat", threats(), ids=lambda row: row[0])
def test_every_threat_has_a_defence_and_tests_that_there_are(threat: tuple[str, str, str]) -> None:
    _, defence, proof = threat
    assert defence
    named = PROOF.findall(proof)
    # Nothing that reads like a test, and is none.
    assert len(named) == len(proof.split(", ")) > 0
    for file, name in named:
        assert name in functions(ROOT / file), f"{file} has no {name}"


def test_no_reference_leads_out_of_the_namespace() -> None:
    [version] = custom_resource_definition()["spec"]["versions"]
    spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    assert not [path for path in _fields(spec) if "namespace" in path[-1].lower()]


def _fields(schema: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The paths of all fields of a schema."""
    for name, field in schema.get("properties", {}).items():
        yield (*path, name)
        yield from _fields(field, (*path, name))
    for inner in ("items", "additionalProperties"):
        if isinstance(schema.get(inner), dict):
            yield from _fields(schema[inner], path)


def test_code_of_a_model_is_never_trusted() -> None:
    sources = [file.read_text() for file in (ROOT / "trainer_image").rglob("*.py")]
    assert sum("from_pretrained(" in source for source in sources) > 3
    assert not [source for source in sources if "trust_remote_code" in source]


def test_every_package_of_the_images_is_locked_by_its_hash() -> None:
    locked = tomllib.loads((ROOT / "uv.lock").read_text())["package"]
    # What has another source than a registry is this repository's own.
    files = [
        file
        for package in locked
        if "registry" in package["source"]
        for file in (*package.get("wheels", []), *([package["sdist"]] if "sdist" in package else []))
    ]
    assert len(files) > 100
    assert all(file["hash"].startswith("sha256:") for file in files)
    installs = re.findall(r"uv pip sync .*", (ROOT / "Dockerfile").read_text())
    assert len(installs) == 2
    assert all("--require-hashes" in install for install in installs)
