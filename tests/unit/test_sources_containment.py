"""No path of a job leads out of its volume, whatever links lie there."""

from pathlib import Path

import pytest
from safetensors.numpy import save

from fetched import config
from finetune_api import names
from finetune_api.runconfig import RunConfig
from finetune_trainer import checks
from finetune_trainer.ends.errors import InvalidConfigurationError
from finetune_trainer.sources import containment

MODEL = {"volume": {"claimName": "models", "path": "nested/tiny"}}
FILES = ("config.json", "tokenizer.json", "model.safetensors", "chat_template.jinja")
TEMPLATE = "additional_chat_templates/tools.jinja"


@pytest.fixture
def run(tmp_path: Path) -> RunConfig:
    """A run whose inputs are all there. What is a secret lies beside its volumes."""
    _save(tmp_path / "models" / "nested" / "tiny")
    _save(tmp_path / "secret")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").write_text("{}\n")
    (tmp_path / "runs").mkdir()
    made = config(tmp_path, MODEL)
    checks.check(made, node=0)
    return made


def _save(model: Path) -> None:
    (model / TEMPLATE).parent.mkdir(parents=True)
    for name in (*FILES, TEMPLATE):
        (model / name).write_bytes(_content(name))


def _content(name: str) -> bytes:
    return save({}) if name.endswith(".safetensors") else b"{}"


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("name", [*FILES, TEMPLATE])
def test_a_file_of_the_model_that_leads_out_is_not_read(
    run: RunConfig, tmp_path: Path, name: str, relative: bool
) -> None:
    file, secret = Path(run.locations.model) / name, tmp_path / "secret" / name
    file.unlink()
    ups = "../" * (2 + len(Path(name).parts))
    file.symlink_to(f"{ups}secret/{name}" if relative else secret)
    assert file.read_bytes() == _content(name)
    with pytest.raises(InvalidConfigurationError) as caught:
        checks.check(run, node=0)
    said = str(caught.value)
    assert said.startswith('spec.model: "nested/tiny" on claim "models"')
    assert f'"{file}" leads out of its volume, to "{secret}"' in said


@pytest.mark.parametrize("relative", [False, True])
def test_a_directory_of_models_that_leads_out_is_not_followed(
    run: RunConfig, tmp_path: Path, relative: bool
) -> None:
    outside = tmp_path / "models" / "nested"
    outside.rename(tmp_path / "outside")
    outside.symlink_to("../outside" if relative else tmp_path / "outside")
    assert Path(run.locations.model).is_dir()
    with pytest.raises(InvalidConfigurationError, match=r"^spec\.model: .*leads out of its volume, to"):
        checks.check(run, node=0)


def test_data_that_lead_out_are_not_read(run: RunConfig, tmp_path: Path) -> None:
    file = Path(run.locations.data["train"][0])
    file.unlink()
    (tmp_path / "secret" / "token.jsonl").write_text("{}")
    file.symlink_to("../secret/token.jsonl")
    with pytest.raises(
        InvalidConfigurationError, match=r'^spec\.dataset\.train: "train\.jsonl" on claim "data"'
    ):
        checks.check(run, node=0)


@pytest.mark.parametrize(
    "name", ["run", names.DOWNLOADS_DIR, names.PREPARED_DATA_DIR, names.DECOMPOSITIONS_DIR]
)
def test_nothing_is_written_where_the_storage_leads_out(run: RunConfig, tmp_path: Path, name: str) -> None:
    place = tmp_path / "runs" / name
    if place.exists():
        place.rename(tmp_path / "runs" / "former")
    (tmp_path / "elsewhere").mkdir()
    place.symlink_to("../elsewhere")
    with pytest.raises(InvalidConfigurationError, match=r"^spec\.storage: .*leads out of its volume"):
        checks.check(run, node=0)
    assert not list((tmp_path / "elsewhere").iterdir())


def test_links_within_a_volume_are_followed(run: RunConfig, tmp_path: Path) -> None:
    """As in the cache of the hub's library, of which people make volumes."""
    model = Path(run.locations.model)
    blobs = tmp_path / "models" / "blobs"
    blobs.mkdir()
    for name in FILES:
        (model / name).rename(blobs / name)
        (model / name).symlink_to(f"../../blobs/{name}")
    checks.check(run, node=0)


def test_links_in_a_circle_are_told_as_such(run: RunConfig) -> None:
    file = Path(run.locations.data["train"][0])
    file.unlink()
    file.symlink_to(file.name)
    with pytest.raises(InvalidConfigurationError, match=r"spec\.dataset\.train.*leads in a circle"):
        checks.check(run, node=0)


def test_volumes_that_lie_behind_links_themselves_are_what_they_are(run: RunConfig, tmp_path: Path) -> None:
    """As where kubelets, or people on their own machines, mount them."""
    (tmp_path / "models").rename(tmp_path / "real")
    (tmp_path / "models").symlink_to("real")
    checks.check(run, node=0)


@pytest.mark.parametrize(
    ("location", "path", "root"),
    [
        ("/volumes/model/a/b", "a/b", "/volumes/model"),
        ("/volumes/model/a/b", "./a//b/", "/volumes/model"),
        ("/volumes/model", ".", "/volumes/model"),
    ],
)
def test_the_root_of_a_volume_is_what_is_left_of_its_path(location: str, path: str, root: str) -> None:
    assert containment.root(location, path) == Path(root)
