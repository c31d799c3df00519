"""A base model whose files are damaged, or were copied in part: refused, never made up for by random numbers."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

from finetune_trainer import checks, model
from finetune_trainer.ends.errors import InvalidConfigurationError
from finetune_trainer.prepare.tokenizer import ChatTokenizer
from tiny import save_tiny_model

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A model."""
    save_tiny_model(tmp_path)
    return tmp_path


def header_bytes(file: Path) -> int:
    """Where the names and shapes of weights end, and their numbers begin."""
    with file.open("rb") as opened:
        return 8 + int.from_bytes(opened.read(8), "little")


def test_no_weight_is_replaced_by_random_numbers(directory: Path) -> None:
    """A bit in its name is enough: transformers warns, and goes on."""
    file = directory / WEIGHTS
    good, dice = file.read_bytes(), random.Random(0)
    for _ in range(30):
        content = bytearray(good)
        content[dice.randrange(8, header_bytes(file))] ^= 1 << dice.randrange(8)
        file.write_bytes(content)
        with pytest.raises(InvalidConfigurationError, match=r"^spec\.model: "):
            model.load(directory)
        file.write_bytes(good)
    found = load_file(file)
    del found["model.norm.weight"]
    save_file(found, file, metadata={"format": "pt"})
    with pytest.raises(InvalidConfigurationError, match=r"of its weights, model\.norm\.weight are not there"):
        model.load(directory)


def test_weights_of_another_shape_are_told_by_name(directory: Path) -> None:
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"intermediate_size": 48}))
    said = r"model\.layers\.0\.mlp\.down_proj\.weight, .* and 3 more are of another shape than config\.json"
    with pytest.raises(InvalidConfigurationError, match=said):
        model.load(directory)


@pytest.mark.parametrize(
    ("name", "load"),
    [
        ("config.json", lambda at: model.skeleton(model.load_config(at))),
        ("tokenizer.json", ChatTokenizer),
        ("tokenizer_config.json", ChatTokenizer),
    ],
)
def test_small_files_are_read_or_refused(directory: Path, name: str, load: Callable[[Path], Any]) -> None:
    file = directory / name
    good, dice = file.read_bytes(), random.Random(1)
    for trial in range(40):
        content = bytearray(good)
        content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
        file.write_bytes(content if trial % 4 else good[: dice.randrange(len(good))])
        said = "spec.model: "
        try:
            load(directory)
        except InvalidConfigurationError as error:
            said = str(error)
        assert said.startswith("spec.model: ")


def said_by_checks(directory: Path) -> str:
    with pytest.raises(InvalidConfigurationError) as caught:
        checks.check_is_whole(directory, "spec.model: here", weights=True)
    return str(caught.value)


def test_what_a_copy_left_out_is_found_before_there_is_a_gpu(directory: Path) -> None:
    checks.check_is_whole(directory, "spec.model: here", weights=True)
    file = directory / WEIGHTS
    good = file.read_bytes()
    for length in (0, 7, 100, len(good) - 1):
        file.write_bytes(good[:length])
        assert said_by_checks(directory).startswith(
            f"spec.model: here: {WEIGHTS} is damaged, or not complete ("
        )
    file.rename(directory / "model-00001-of-00002.safetensors")
    (directory / "model-00001-of-00002.safetensors").write_bytes(good)
    index = directory / INDEX
    index.write_text(json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-2"}}))
    assert said_by_checks(directory).startswith(
        f"spec.model: here is not complete: {INDEX} names model-2, which is not there"
    )
    index.write_text(json.dumps({"weight_map": {"a": "../../other/model.safetensors"}}))
    assert "names ../../other/model.safetensors, which is not in the directory" in said_by_checks(directory)
    for content in ("", "[]", '{"weight_map": 1}', "[" * 5000):
        index.write_text(content)
        assert said_by_checks(directory).startswith(f"spec.model: here: {INDEX} is damaged (")
    (directory / "config.json").write_bytes(b'{"model_type": "lla')
    assert said_by_checks(directory).startswith("spec.model: here: config.json is not JSON (")
