"""The exact shapes of a base model, from its config.json."""

import json
from pathlib import Path

from finetune_api.architecture import ArchitectureError, from_config
from finetune_api.facts import ModelFacts
from finetune_operator.cli.errors import CommandError

NAME = "config.json"


def model_facts(path: Path) -> ModelFacts:
    """What a config.json tells, or the one in a model's directory.

    Raises CommandError when it cannot be read, or is no configuration of a model that can be planned.
    """
    file = path / NAME if path.is_dir() else path
    try:
        config = json.loads(file.read_bytes())
    except OSError as error:
        raise CommandError(f"{file}: {error.strerror}") from error
    except ValueError as error:
        raise CommandError(f"{file}: is not JSON ({error})") from error
    if not isinstance(config, dict):
        raise CommandError(f"{file}: is not a model's configuration: it must be an object")
    try:
        return ModelFacts(from_config(config))
    except ArchitectureError as error:
        raise CommandError(f"{file}: {error}") from error
