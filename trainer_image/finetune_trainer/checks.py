"""What can be known to be wrong before anything heavy is imported."""

from pathlib import Path

from pydantic import ValidationError

from finetune_api import names
from finetune_api.runconfig import RunConfig
from finetune_trainer import storage
from finetune_trainer.errors import InvalidConfigurationError, described, of_system


def load(file: Path) -> RunConfig:
    """Read a RunConfig. Raises InvalidConfigurationError with every field that is wrong."""
    try:
        return RunConfig.model_validate_json(file.read_bytes())
    except OSError as error:
        raise InvalidConfigurationError(
            f"cannot read the run configuration {file}: {error.strerror}"
        ) from None
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors()]
        raise InvalidConfigurationError(f"run configuration {file}: {'; '.join(faults)}") from None


def check(config: RunConfig, *, node: int) -> None:
    """Make sure that inputs are there and that the storage is writable and this run's own.

    Raises a TrainerError that names the field of the spec.
    """
    _check_model(config)
    _check_train(config)
    origin = described(config.origins.storage, Path(config.locations.storage))
    where = f"spec.storage: cannot write to {origin}"
    try:
        storage.claim(config, node=node)
    except OSError as error:
        raise of_system(error, where) from None


def _check_model(config: RunConfig) -> None:
    field, directory = "spec.model", Path(config.locations.model)
    origin = described(config.origins.model, directory)
    try:
        if not directory.is_dir():
            raise InvalidConfigurationError(f"{field}: no directory {origin}")
        found = {file.name for file in directory.iterdir()}
        if "config.json" not in found:
            raise InvalidConfigurationError(f"{field}: no config.json in {origin}: not a Hugging Face model")
        if not any(name.endswith(".safetensors") for name in found):
            raise InvalidConfigurationError(
                f"{field}: no *.safetensors in {origin}: convert the weights first"
            )
        if not found.intersection(names.TOKENIZER_FILES):
            raise InvalidConfigurationError(
                f"{field}: no tokenizer in {origin}: none of {names.TOKENIZER_FILES}"
            )
        # Saved by another user, safetensors are his alone; the library that reads them would say they do not exist.
        for name in sorted(found):
            if name in ("config.json", *names.TOKENIZER_FILES) or name.endswith(".safetensors"):
                (directory / name).open("rb").close()
    except OSError as error:
        raise of_system(error, f"{field}: cannot read {origin}") from None


def _check_train(config: RunConfig) -> None:
    field, file = "spec.dataset.train", Path(config.locations.train)
    origin = described(config.origins.train, file)
    try:
        if file.is_dir():
            raise InvalidConfigurationError(f"{field}: {origin} is a directory, not a JSONL file")
        if not file.exists():
            raise InvalidConfigurationError(f"{field}: no file {origin}")
        file.open("rb").close()
    except OSError as error:
        raise of_system(error, f"{field}: cannot read {origin}") from None
