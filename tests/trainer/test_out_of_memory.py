"""Running out of memory in the middle of a step: half the token budget, and the same result."""

import errno
import itertools
import json
import os
import re
import resource
import sys
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from finetune_api.failure import CAUSES, ExitCode
from finetune_api.methods import Lora
from finetune_api.recipe import Recipe
from finetune_api.report import Report
from finetune_api.runconfig import RunConfig
from finetune_trainer.ends.out_of_memory import release
from tiny import save_chat_data, save_tiny_model
from trainer import forked, gangs

SAMPLES, BATCH, STEPS = 64, 16, 8
BUDGET = 1280
HYPERPARAMETERS: dict[str, Any] = {
    "learningRate": 1e-3,
    "effectiveBatchSize": BATCH,
    "numEpochs": 2,
    "maxSeqLen": 128,
    # A step of one process in a single micro-batch; half of it takes two.
    "maxTokensPerGpu": BUDGET,
    "weightDecay": 0.1,
    # Large enough for rounding not to decide what a weight without a gradient worth mentioning does.
    "eps": 1e-5,
}
# What 32 tokens take from main memory where it is limited: so much that the C library gives it back at once.
_CHUNK, _TOKENS_OF_CHUNK = 48 * 2**20, 32


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("memory")
    save_tiny_model(base / "model")
    save_chat_data(base / "train.jsonl", samples=SAMPLES)
    return base


def run(base: Path, name: str, nodes: int = 1, **stated: Any) -> RunConfig:
    return gangs.config(base, name=name, nodes=nodes, every_epoch=False, **(HYPERPARAMETERS | stated))


def trained(config: RunConfig, beforehand: forked.Beforehand | None = None) -> dict[str, Tensor]:
    """Train to the end in one attempt; returns the weights."""
    with forked.running(config, beforehand=beforehand) as gang:
        codes = gang.wait()
        assert codes == [0] * config.world_size, (codes, gang.output())
    return weights(config)


def weights(config: RunConfig) -> dict[str, Tensor]:
    return load_file(Path(config.locations.storage) / "output" / "model.safetensors")


def report(config: RunConfig) -> Report:
    return Report.from_json((Path(config.locations.storage) / "report.json").read_bytes())


def budget(config: RunConfig) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((Path(config.locations.storage) / "token-budget.json").read_text())
    return found


def close(some: dict[str, Tensor], others: dict[str, Tensor]) -> bool:
    return some.keys() == others.keys() and all(
        torch.allclose(some[name], others[name], rtol=0, atol=1e-5) for name in some
    )


def equal(some: dict[str, Tensor], others: dict[str, Tensor]) -> bool:
    return some.keys() == others.keys() and all(torch.equal(some[name], others[name]) for name in some)


@dataclass(frozen=True)
class Shortage:
    """In one process, the backward pass of a micro-batch finds no memory, or that of every one from then on."""

    nth: int
    rank: int = 0
    lasting: bool = False
    of_activations: bool = False
    """There is memory enough where activations are recomputed."""

    def __call__(self, rank: int) -> None:
        if rank != self.rank:
            return
        from torch.nn.modules.module import register_module_forward_hook

        from finetune_trainer.model import TrainableModel

        passed = itertools.count(1)

        def fail(_: Tensor) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

        def on_forward(module: Any, _: Any, loss: Tensor) -> None:
            if not isinstance(module, TrainableModel):
                return
            number = next(passed)
            if self.of_activations and module.hf.is_activation_checkpointing:
                return
            if number == self.nth or (self.lasting and number > self.nth):
                loss.register_hook(fail)

        register_module_forward_hook(on_forward)


@dataclass(frozen=True)
class Limit:
    """From a micro-batch on, main memory has room for so many tokens of those to come, of which each takes much."""

    nth: int
    tokens: int

    def __call__(self, rank: int) -> None:
        from finetune_trainer.model import TrainableModel

        forward: Callable[..., Tensor] = TrainableModel.forward
        passed = itertools.count(1)

        def greedy(model: TrainableModel, input_ids: Tensor, **rest: Any) -> Tensor:
            number = next(passed)
            if number == self.nth:
                limit = data_size() + self.tokens // _TOKENS_OF_CHUNK * _CHUNK
                resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
            chunks = input_ids.numel() // _TOKENS_OF_CHUNK if number >= self.nth else 0
            taken = [torch.empty(_CHUNK, dtype=torch.uint8) for _ in range(chunks)]
            assert len(taken) == chunks
            return forward(model, input_ids, **rest)

        TrainableModel.forward = greedy  # type: ignore[method-assign, assignment]


def data_size() -> int:
    [line] = [
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmData")
    ]
    return int(line.split()[1]) * 1024


def test_an_exception_lets_go_of_the_tensors_that_it_came_through() -> None:
    """While it is still being handled: the others save their state then, and memory is short."""
    seen: list[weakref.ref[Tensor]] = []

    def compute() -> None:
        tensor = torch.ones(1)
        seen.append(weakref.ref(tensor))
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError) as raised:
        compute()
    assert seen[0]() is not None
    release(raised.value)
    assert seen[0]() is None


@pytest.fixture(scope="module")
def undisturbed(base: Path) -> dict[str, Tensor]:
    return trained(run(base, "undisturbed"))


def test_a_process_alone_repeats_the_step_where_it_is(base: Path, undisturbed: dict[str, Tensor]) -> None:
    config = run(base, "alone")
    found = trained(config, Shortage(nth=1))
    # From the first step on it is the run that had half the budget from the start.
    assert equal(found, trained(run(base, "small", maxTokensPerGpu=BUDGET // 2)))
    assert close(found, undisturbed)
    assert budget(config)["maxTokensPerGpu"] == BUDGET // 2
    said = report(config)
    assert said.attempt == 1
    assert said.plan is not None
    choice = said.plan.choice("spec.hyperparameters.maxTokensPerGpu")
    assert choice is not None
    assert choice.value == said.plan.max_tokens_per_gpu == BUDGET // 2
    assert choice.reason.startswith("halved after running out of memory at step 1: ")
    assert "CUDA out of memory. Tried to allocate 20.00 MiB." in choice.reason
    assert said.plan.micro_batches_per_step is not None
    assert said.plan.micro_batches_per_step.mean == 2
    # No step is missing, and none is there twice.
    assert len(gangs.metrics(base / "alone")) == STEPS


def test_memory_that_is_really_short_is_given_back(base: Path, undisturbed: dict[str, Tensor]) -> None:
    """Some 830 tokens do not fit into what is left in the fourth step; half of them do if nothing of it remains."""
    config = run(base, "limited")
    assert close(trained(config, Limit(nth=4, tokens=560)), undisturbed)
    assert budget(config)["maxTokensPerGpu"] == BUDGET // 2
    assert "at step 4" in budget(config)["reason"]
    assert "DefaultCPUAllocator: can't allocate memory" in budget(config)["reason"]
    assert len(gangs.metrics(base / "limited")) == STEPS


def test_a_gang_leaves_together_and_loses_nothing(base: Path, undisturbed: dict[str, Tensor]) -> None:
    # Two micro-batches to a step: it is in the middle of the fourth.
    config = run(base, "gang", nodes=2, maxTokensPerGpu=320)
    with forked.running(config, beforehand=Shortage(nth=8, rank=1)) as gang:
        assert gang.wait() == [ExitCode.SMALLER_BUDGET] * 2, gang.output()
        causes = gang.causes()
    assert {cause["exit_code"] for cause in causes.values()} == {ExitCode.SMALLER_BUDGET}
    assert budget(config)["maxTokensPerGpu"] == 160
    assert [path.name for path in (base / "gang" / "resume").iterdir()] == ["step-00000003"]
    with forked.running(config, attempt=2) as gang:
        assert gang.wait() == [0, 0], gang.output()
    assert report(config).resumed_from_step == 3
    assert len(gangs.metrics(base / "gang")) == STEPS
    assert close(weights(config), undisturbed)


@dataclass(frozen=True)
class Unsaved:
    """A shortage, after which rank 1 cannot save at once, and rank 0 is not told for a while."""

    shortage: Shortage

    def __call__(self, rank: int) -> None:
        from finetune_trainer.checkpoints.checkpoint import Checkpoints

        def save_aside(*_: Any) -> None:
            if rank == 0:
                time.sleep(5)
            raise OSError(errno.EIO, "Input/output error")

        Checkpoints.save_aside = save_aside  # type: ignore[method-assign, assignment]
        self.shortage(rank)


def test_a_gang_that_cannot_save_leaves_all_the_same_and_for_the_same_cause(base: Path) -> None:
    """Though rank 0 loses its peer in the middle of the step."""
    config = run(base, "unsaved", nodes=2, maxTokensPerGpu=320)
    with forked.running(config, beforehand=Unsaved(Shortage(nth=8, rank=1))) as gang:
        assert gang.wait() == [ExitCode.SMALLER_BUDGET] * 2, gang.output()
        causes, output = gang.causes(), gang.output()
    assert {cause["exit_code"] for cause in causes.values()} == {ExitCode.SMALLER_BUDGET}
    assert output.count("the state after step 3 is not saved; an older one will do") == 2
    assert budget(config)["maxTokensPerGpu"] == 160
    assert not list((base / "unsaved").glob("resume/step-*"))


@dataclass(frozen=True)
class OnGpus:
    """Plans are made as for a GPU of 2 GiB, which is enough by the estimate."""

    shortage: Shortage | None = None

    def __call__(self, rank: int) -> None:
        recipe: Callable[[RunConfig], Recipe] = vars(RunConfig)["recipe"].fget
        gpu: dict[str, Any] = {"gpus_per_node": 1, "gpu_memory": 2 * 2**30}
        RunConfig.recipe = property(lambda config: replace(recipe(config), **gpu))  # type: ignore[method-assign, assignment]
        # There is none to compute on.
        RunConfig.use_gpu = property(lambda config: False)  # type: ignore[method-assign, assignment]
        if self.shortage:
            self.shortage(rank)


ADVICE = CAUSES[ExitCode.OUT_OF_MEMORY].advice


@pytest.mark.parametrize(
    ("beforehand", "ends", "advice"),
    [
        (Shortage(nth=1, lasting=True), [ExitCode.OUT_OF_MEMORY], ADVICE),
        (
            OnGpus(Shortage(nth=1, lasting=True)),
            # The second time, activations are recomputed.
            [ExitCode.SMALLER_BUDGET, ExitCode.OUT_OF_MEMORY],
            "Change spec.hyperparameters or spec.resources to what fits by the plan: gpuMemory: 24Gi (2.0 GiB each)",
        ),
    ],
    ids=["unknown hardware", "known hardware"],
)
def test_a_sample_that_does_not_fit_alone_ends_the_run_and_what_would_help_is_named(
    base: Path, beforehand: forked.Beforehand, ends: list[ExitCode], advice: str
) -> None:
    config = run(base, f"hopeless-{type(beforehand).__name__.lower()}", maxTokensPerGpu=None)
    for attempt, end in enumerate(ends, 1):
        with forked.running(config, attempt=attempt, beforehand=beforehand) as gang:
            assert gang.wait() == [end], gang.output()
            [cause] = gang.causes().values()
    said = r"step 1: a sample of \d+ tokens does not fit into memory \(CUDA out of memory\. .*\)\. "
    assert re.fullmatch(said + re.escape(advice), cause["message"]), cause["message"]


def test_a_process_alone_starts_again_where_activations_are_to_be_recomputed(
    base: Path, tmp_path: Path
) -> None:
    """It has loaded the model to keep them. Half the budget, which does not help here, it tries where it is."""
    # Five or six micro-batches to a step: it is in the middle of the third.
    stated = {"maxTokensPerGpu": 220, "maxSteps": 5}
    whole, short = (
        run(base, name, **stated).model_copy(update={"method": "lora", "lora": Lora(r=4)})
        for name in ("kept", "recomputed")
    )
    with forked.running(whole, beforehand=OnGpus()) as gang:
        assert gang.wait() == [0], gang.output()
    kept = report(whole)
    assert kept.plan is not None
    assert not kept.plan.activation_checkpointing
    (tmp_path / "sitecustomize.py").write_text(
        """
import sys
if "finetune_trainer.worker" in sys.orig_argv:
    from trainer.test_out_of_memory import OnGpus, Shortage
    OnGpus(Shortage(nth=13, lasting=True, of_activations=True))(0)
"""
    )
    [end] = gangs.run(short, inside=["env", f"PYTHONPATH={os.pathsep.join([str(tmp_path), *sys.path])}"])
    assert end.exit_code == 0, end.output
    assert "start 2 of the training processes" in end.output
    assert "start 3 of the training processes" not in end.output
    assert "halved after running out of memory at step 3" in end.output
    assert budget(short)["reason"].startswith("activations recomputed, after running out of memory at step 3")
    said = report(short)
    assert (said.attempt, said.resumed_from_step) == (1, 2)
    assert said.plan is not None
    assert said.plan.activation_checkpointing
    assert said.plan.max_tokens_per_gpu == kept.plan.max_tokens_per_gpu
    assert gangs.losses(base / "recomputed") == pytest.approx(gangs.losses(base / "kept"), rel=1e-5)
    assert close(
        *(load_file(base / name / "output" / "adapter_model.safetensors") for name in ("recomputed", "kept"))
    )


def test_both_nodes_come_back_in_the_same_attempt(
    base: Path, undisturbed: dict[str, Tensor], tmp_path: Path
) -> None:
    """As a container runs them: the first process of each node starts its training process again."""
    config = run(base, "nodes", nodes=2, maxTokensPerGpu=320)
    budget_file = base / "nodes" / "token-budget.json"
    # Imported by every Python that is started; the shortage is there before training, and once only.
    (tmp_path / "sitecustomize.py").write_text(
        f"""
import os, pathlib, sys
from importlib.abc import MetaPathFinder

class Disturb(MetaPathFinder):
    def find_spec(self, name, *_):
        if name == "finetune_trainer.loop":
            from trainer.test_out_of_memory import Shortage
            Shortage(nth=8, rank=1)(int(os.environ["RANK"]))

if "RANK" in os.environ and not pathlib.Path({str(budget_file)!r}).exists():
    sys.meta_path.insert(0, Disturb())
"""
    )
    ends = gangs.run(config, inside=["env", f"PYTHONPATH={os.pathsep.join([str(tmp_path), *sys.path])}"])
    assert [end.exit_code for end in ends] == [0, 0], ends[0].output + ends[1].output
    said = report(config)
    assert (said.attempt, said.resumed_from_step) == (1, 3)
    assert budget(config)["maxTokensPerGpu"] == 160
    assert len(gangs.metrics(base / "nodes")) == STEPS
    assert close(weights(config), undisturbed)
