"""What can be known to be wrong before anything heavy is imported."""

import json
from collections.abc import Iterable, Set
from pathlib import Path

from pydantic import ValidationError

from finetune_api import names
from finetune_api.evaluation import MODEL
from finetune_api.runconfig import RunConfig
from finetune_trainer import storage
from finetune_trainer.ends.errors import (
    InvalidConfigurationError,
    TrainerError,
    UntrustedFileError,
    described,
    of_system,
)
from finetune_trainer.sources import containment, record
from finetune_trainer.sources import weights as weights_files
from finetune_trainer.sources.model_files import USE, of_directory

# Weights as pickle has them, by the names that libraries give them.
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")

# What an adapter is.
_ADAPTER = ("adapter_config.json", "adapter_model.safetensors")


def load(file: Path) -> RunConfig:
    """Read a RunConfig, with the paths of what was downloaded (see sources.record).

    Raises InvalidConfigurationError with every field that is wrong.
    """
    try:
        config = RunConfig.model_validate_json(file.read_bytes())
    except OSError as error:
        raise InvalidConfigurationError(
            f"cannot read the run configuration {file}: {error.strerror}"
        ) from None
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors()]
        raise InvalidConfigurationError(f"run configuration {file}: {'; '.join(faults)}") from None
    try:
        return record.located(config)
    except OSError as error:
        where = described(config.storage, Path(config.locations.storage))
        raise of_system(error, f"spec.storage: cannot read {names.INPUTS_FILE} in {where}") from None


def check(config: RunConfig, *, node: int, later: Set[str] = frozenset()) -> None:
    """Make sure that inputs are there, and that the storage is writable and this run's own.

    Names of inputs that come `later` are left out. Raises a TrainerError that names the field of the spec.
    """
    check_inputs(config, later=later)
    check_storage(config, node=node)


def check_storage(config: RunConfig, *, node: int) -> None:
    """Make sure that the storage is writable and this run's own. Raises a TrainerError."""
    origin = described(config.storage, Path(config.locations.storage))
    where = f"spec.storage: cannot write to {origin}"
    places = config.locations
    written = map(Path, (places.storage, places.prepared, places.decompositions, places.downloads))
    try:
        containment.check(containment.root_of_storage(config), written, f"spec.storage: {origin}")
        storage.claim(config, node=node)
    except OSError as error:
        raise of_system(error, where) from None


def check_inputs(config: RunConfig, *, weights: bool = True, later: Set[str] = frozenset()) -> None:
    """Make sure that model and data are there and can be read; `weights` as far as they are wanted.

    Names of inputs that come `later` are left out. Raises a TrainerError that names the field of the spec.
    """
    if MODEL not in later:
        check_base(config, weights=weights)
    for name, data in config.data_sets.items():
        if name in later:
            continue
        _check_is_downloaded(config, name, f"{data.field}: {data.source}")
        for file in map(Path, config.locations.data[name]):
            origin = f"{data.field}: {described(data.source, file)}"
            _check_containment(config, name, [file], origin)
            check_data(file, origin)


def check_base(config: RunConfig, *, weights: bool) -> None:
    """Make sure that the base model is there and can be read. Raises a TrainerError that names the field."""
    _check_is_downloaded(config, MODEL, f"spec.model: {config.model}")
    model = Path(config.locations.model)
    origin = f"spec.model: {described(config.model, model)}"
    _check_containment(config, MODEL, [model], origin)
    check_model(model, origin, weights=weights)
    _check_containment(config, MODEL, [model / name for name in of_directory(model)], origin)
    check_is_whole(model, origin, weights=weights)


def _check_is_downloaded(config: RunConfig, name: str, origin: str) -> None:
    if name in record.missing(config):
        raise InvalidConfigurationError(
            f"{origin} is not on the storage claim: {names.INPUTS_FILE} says nothing of it. The preparation downloads "
            "it; remove the job and make it anew"
        )


def _check_containment(config: RunConfig, name: str, paths: Iterable[Path], origin: str) -> None:
    try:
        containment.check(containment.root_of_input(config, name), paths, origin)
    except OSError as error:
        raise of_system(error, f"{origin} cannot be read") from None


def check_model(directory: Path, origin: str, *, weights: bool) -> None:
    """Make sure that there is a model's directory. Raises a TrainerError that begins with `origin`."""
    try:
        if not directory.is_dir():
            raise InvalidConfigurationError(f"{origin} is no directory")
        found = {file.name for file in directory.iterdir()}
        check_listing(found, origin, weights=weights)
        # Saved by another user, safetensors are his alone; the library that reads them would say they do not exist.
        for name in sorted(found):
            if name in ("config.json", *names.TOKENIZER_FILES, *USE) or name.endswith(".safetensors"):
                (directory / name).open("rb").close()
    except OSError as error:
        raise of_system(error, f"{origin} cannot be read") from None


def check_is_whole(directory: Path, origin: str, *, weights: bool) -> None:
    """Make sure that a model's files were copied to their end, as far as can be told without reading all of them.

    Raises a TrainerError that begins with `origin`.
    """
    try:
        try:
            known = json.loads((directory / "config.json").read_bytes())
        except (ValueError, RecursionError) as error:
            raise InvalidConfigurationError(f"{origin}: config.json is not JSON ({error})") from None
        if not isinstance(known, dict):
            raise InvalidConfigurationError(f"{origin}: config.json must hold an object")
        if weights:
            weights_files.check(directory, origin)
    except OSError as error:
        raise of_system(error, f"{origin} cannot be read") from None


def check_listing(found: Set[str], origin: str, *, weights: bool) -> None:
    """Make sure that files of these names are a model. Raises a TrainerError that begins with `origin`."""
    if "config.json" not in found:
        raise InvalidConfigurationError(f"{origin} has no config.json: it is not a Hugging Face model")
    if weights and not any(name.endswith(".safetensors") for name in found):
        raise _without_safetensors(found, origin)
    if not found & set(names.TOKENIZER_FILES):
        raise InvalidConfigurationError(f"{origin} has no tokenizer: none of {names.TOKENIZER_FILES}")


def check_adapter(directory: Path, origin: str) -> None:
    """Make sure that there is a directory that peft would load. Raises a TrainerError that begins with `origin`."""
    try:
        if not directory.is_dir():
            raise InvalidConfigurationError(f"{origin} is no directory")
        for name in _ADAPTER:
            (directory / name).open("rb").close()
    except FileNotFoundError:
        raise InvalidConfigurationError(
            f"{origin} has no {name}: it is not an adapter with safetensors"
        ) from None
    except OSError as error:
        raise of_system(error, f"{origin} cannot be read") from None


def _without_safetensors(found: Set[str], origin: str) -> TrainerError:
    pickles = sorted(name for name in found if name.endswith(_PICKLES) and "model" in name)
    if not pickles:
        return InvalidConfigurationError(f"{origin} has no weights: there are no *.safetensors")
    return UntrustedFileError(
        f"{origin} has its weights in {pickles[0]} only, and no *.safetensors: a file like that can run code when it "
        "is read, so it is not. Where you trust it, convert it once: "
        "AutoModelForCausalLM.from_pretrained(path).save_pretrained(path, safe_serialization=True)"
    )


def check_data(file: Path, origin: str) -> None:
    """Make sure that there is a file. Raises a TrainerError that begins with `origin`."""
    try:
        if file.is_dir():
            raise InvalidConfigurationError(f"{origin} is a directory, not a file")
        if not file.exists():
            raise InvalidConfigurationError(f"{origin} does not exist")
        # Opening a pipe waits for whoever writes to it, and a device may go on for ever.
        if not file.is_file():
            raise InvalidConfigurationError(
                f"{origin} is no regular file, but a pipe, a socket or a device: copy the data into a file"
            )
        file.open("rb").close()
    except OSError as error:
        raise of_system(error, f"{origin} cannot be read") from None
