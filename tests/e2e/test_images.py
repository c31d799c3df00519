"""What is in the two images, and what is not."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager

import pytest

from e2e.container import Container, container
from imaging.content import IMAGES, ROOT
from imaging.engines import find_engine


@pytest.fixture(scope="module", params=list(IMAGES))
def image(request: pytest.FixtureRequest) -> Iterator[Container]:
    """Each of the two images, built if need be."""
    with _built(request.param) as built:
        yield built


@pytest.fixture(scope="module")
def operator() -> Iterator[Container]:
    with _built("operator") as built:
        yield built


@pytest.fixture(scope="module")
def trainer() -> Iterator[Container]:
    with _built("trainer") as built:
        yield built


def _built(target: str) -> AbstractContextManager[Container]:
    command = [str(ROOT / "hack" / "images"), "build", target]
    reference = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    return container(find_engine(), reference)


def modules(image: Container, *names: str) -> set[str]:
    """Which of the top-level modules Python finds in the image."""
    program = f"import importlib.util as u, json; print(json.dumps([n for n in {names!r} if u.find_spec(n)]))"
    return set(json.loads(image.run("python", "-c", program)))


def test_the_operator_has_no_torch(operator: Container) -> None:
    wanted = {"finetune_api", "finetune_operator", "kopf", "kubernetes"}
    assert modules(operator, *wanted, "finetune_trainer", "torch", "transformers", "numpy") == wanted


def test_the_trainer_has_no_kopf(trainer: Container) -> None:
    wanted = {"finetune_api", "finetune_trainer", "torch", "transformers", "peft", "bitsandbytes"}
    # triton would fail at its first kernel, for want of a compiler.
    assert modules(trainer, *wanted, "finetune_operator", "kopf", "kubernetes", "triton") == wanted


def test_the_trainer_can_use_what_it_has(trainer: Container) -> None:
    program = """if True:
        import datasets, torch, transformers
        from transformers import AutoModelForCausalLM
        print(torch.ones(2) @ torch.ones(2))
    """
    assert trainer.run("python", "-c", program) == "tensor(2.)"


def test_the_trainer_can_train_beside_quantised_weights(trainer: Container) -> None:
    """bitsandbytes does without triton, a compiler, and anything to write to but /tmp."""
    program = """if True:
        import torch
        from types import SimpleNamespace
        from finetune_api.methods import Lora
        from finetune_trainer.adapters.quantization import check_quantization
        alone = SimpleNamespace(collect=lambda found: [found], world_size=1)
        for bits in ("load_in_4bit", "load_in_8bit"):
            check_quantization(Lora(**{bits: True}), [torch.device("cpu")], alone)
            print(bits)
    """
    assert trainer.run("python", "-c", program).split() == ["load_in_4bit", "load_in_8bit"]


def test_nothing_can_be_built_or_installed(image: Container) -> None:
    assert modules(image, "pip", "uv", "hatchling") == set()
    program = (
        "import shutil; print(*[n for n in ('cc', 'gcc', 'make', 'git', 'pip', 'uv') if shutil.which(n)])"
    )
    assert image.run("python", "-c", program) == ""


def test_it_runs_as_a_number_with_a_name(image: Container) -> None:
    # runAsNonRoot can not be checked of a name.
    assert image.config()["User"] == "65532:65532"
    assert (
        image.run("python", "-c", "import getpass, os; print(os.getuid(), getpass.getuser())")
        == "65532 finetune"
    )


def test_its_root_is_read_only_and_its_home_is_not(image: Container) -> None:
    program = """if True:
        import os, pathlib, tempfile
        assert os.statvfs("/").f_flag & os.ST_RDONLY
        (pathlib.Path.home() / "file").write_text("")
        print(tempfile.gettempdir(), *os.listdir("/tmp"))
    """
    assert image.run("python", "-c", program) == "/tmp file"


def test_every_module_is_compiled(image: Container) -> None:
    """On a read-only root each start would compile it anew."""
    program = """if True:
        import finetune_api, pathlib, sysconfig
        from importlib.util import cache_from_source
        root = pathlib.Path(sysconfig.get_path("purelib"))
        names = ["finetune_api/__init__.py", "pydantic/main.py"]
        print(*[name for name in names if not pathlib.Path(cache_from_source(str(root / name))).exists()])
    """
    assert image.run("python", "-c", program) == ""


def test_its_command_is_there_and_the_other_is_not(image: Container) -> None:
    [command] = image.config()["Entrypoint"]
    program = (
        "import shutil; print(*[n for n in ('finetune-operator', 'finetune-trainer') if shutil.which(n)])"
    )
    assert image.run("python", "-c", program) == command


def test_it_trusts_whom_debian_trusts_and_nobody_else(image: Container) -> None:
    """The build may trust certificates of the machine it runs on; the image does not keep them."""
    program = """if True:
        import pathlib
        bundle = pathlib.Path("/etc/ssl/certs/ca-certificates.crt").read_text().count("BEGIN CERTIFICATE")
        single = len(list(pathlib.Path("/usr/share/ca-certificates").rglob("*.crt")))
        print(bundle - single, *pathlib.Path("/usr/local/share/ca-certificates").glob("*"))
    """
    assert image.run("python", "-c", program) == "0"


def test_its_labels_say_what_it_is(image: Container) -> None:
    labels = image.config()["Labels"]
    [command] = image.config()["Entrypoint"]
    assert labels["org.opencontainers.image.title"] == command
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
