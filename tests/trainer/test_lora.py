"""Low-rank adaptation, compared with its plain mathematics: W + s B A, of which autograd knows A and B."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from finetune_api import names
from finetune_api.failure import ExitCode
from finetune_api.methods import Lora
from finetune_api.trained_weights import trainable_parameters
from finetune_trainer.adapters.adapter import adapt
from finetune_trainer.adapters.identity import Named
from finetune_trainer.planning import model_facts
from finetune_trainer.reports import history
from finetune_trainer.storage import Storage
from tiny import WIDTH, save_chat_data, save_tiny_model
from trainer import forked, gangs
from trainer.faults import OUTPUT, STATE, Fault, Moment
from trainer.plain import HYPERPARAMETERS, SAMPLES, Result, by_hand, check, trained
from trainer.survival import Course

R, ALPHA = 4, 12
SMALL: dict[str, Any] = {"maxTokensPerGpu": 130}
LINEAR = "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"
SEED = 42


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a model and data."""
    base = tmp_path_factory.mktemp("lora")
    save_tiny_model(base / "model")
    save_chat_data(base / "train.jsonl", samples=SAMPLES)
    return base


def lora(**knobs: Any) -> dict[str, Any]:
    """Fields of a RunConfig."""
    return {"method": "lora", "lora": Lora.model_validate({"r": R, "alpha": ALPHA} | knobs)}


class LowRank:
    """Beside some frozen matrices of a model, products of two thin ones are trained."""

    def __init__(self, model: nn.Module, scale: float = ALPHA / R, layers: tuple[str, ...] = LINEAR) -> None:
        self._dense = {name: weight.detach() for name, weight in model.named_parameters()}
        self._scale = scale
        chosen = [name for name in self._dense if name.split(".")[-2] in layers]
        drawn = drawn_a(model, sorted({name.split(".")[-2] for name in chosen}))
        self._a = {name: nn.Parameter(drawn[name]) for name in chosen}
        self._b = {name: nn.Parameter(torch.zeros(len(self._dense[name]), R)) for name in chosen}
        self.parameters = [*self._a.values(), *self._b.values()]

    def values(self) -> dict[str, Tensor]:
        """The matrices with what is beside them, in the sight of autograd."""
        made = {name: self._dense[name] + self._scale * self._b[name] @ a for name, a in self._a.items()}
        return self._dense | made

    def project_gradients(self) -> None:
        """Nothing restricts them."""

    def project_values(self) -> None:
        """Nothing restricts them."""


def drawn_a(model: nn.Module, layers: list[str]) -> dict[str, Tensor]:
    """What a run with the usual seed begins with: A as peft draws it."""
    torch.manual_seed(SEED)
    config = model.config
    fresh = AutoModelForCausalLM.from_config(config).requires_grad_(False)
    torch.manual_seed(SEED)
    adapted = adapt(fresh, Lora(target_modules=layers), r=R, alpha=ALPHA, base=Named("x"))
    return {
        name.removeprefix("base_model.model.").replace(".lora_A.default", ""): weight.detach()
        for name, weight in adapted.named_parameters()
        if "lora_A" in name
    }


def merged(base: Path, found: Result, scale: float = ALPHA / R) -> Result:
    """A run's result with the matrices that its adapter makes of the base model's, as the mathematics have them."""
    weights = load_file(base / "model/model.safetensors")
    for name in [name for name in found.weights if "lora_A" in name]:
        dense = name.removeprefix("base_model.model.").replace(".lora_A", "")
        weights[dense] = (
            weights[dense] + scale * found.weights[name.replace("lora_A", "lora_B")] @ found.weights[name]
        )
    return Result(found.losses, found.grad_norms, found.rates, weights)


@pytest.fixture(scope="module")
def plain(base: Path) -> Result:
    """What the mathematics say."""
    return by_hand(base, LowRank)


@pytest.mark.parametrize("nodes", [1, 2, 4])
def test_any_number_of_processes(base: Path, plain: Result, nodes: int) -> None:
    check(merged(base, trained(base, f"on-{nodes}", nodes, method=lora())), plain)
    before = load_file(base / "model/model.safetensors")
    assert max((plain.weights[name] - weight).abs().max() for name, weight in before.items()) > 5e-3


@pytest.mark.parametrize("nodes", [1, 2])
@pytest.mark.parametrize("planned", [{}, {"activation_checkpointing": True}], ids=str)
def test_any_budget_and_mode(base: Path, plain: Result, nodes: int, planned: dict[str, Any]) -> None:
    name = f"small-on-{nodes}-{len(planned)}"
    check(merged(base, trained(base, name, nodes, method=lora(), planned=planned, **SMALL)), plain)
    assert min(step.micro_batches or 0 for step in gangs.metrics(base / name)[:4]) > 1


@pytest.mark.parametrize(
    ("name", "modules", "layers"),
    [
        ("attention", ["attention"], LINEAR[:4]),
        ("names", ["q_proj", "mlp.up_proj"], ("q_proj", "up_proj")),
        ("pattern", [r"self_attn\.[qk]_proj"], ("q_proj", "k_proj")),
    ],
)
def test_any_layers(base: Path, name: str, modules: list[str], layers: tuple[str, ...]) -> None:
    expected = by_hand(base, lambda model: LowRank(model, layers=layers))
    found = trained(base, name, 2, method=lora(targetModules=modules))
    check(merged(base, found), expected)
    assert {key.split(".")[-3] for key in found.weights} == set(layers)


def test_alpha_is_divided_by_the_root_of_r_if_that_is_wanted(base: Path) -> None:
    scale = ALPHA / math.sqrt(R)
    expected = by_hand(base, lambda model: LowRank(model, scale))
    check(merged(base, trained(base, "rslora", method=lora(useRslora=True)), scale), expected)


@pytest.mark.parametrize("nodes", [1, 2])
def test_clipping_is_by_the_norm_of_the_adapters_gradient(base: Path, nodes: int) -> None:
    limit: dict[str, Any] = {"maxGradNorm": 0.1}
    expected = by_hand(base, LowRank, **limit)
    assert min(expected.grad_norms) > 0.1
    check(merged(base, trained(base, f"clipped-on-{nodes}", nodes, method=lora(), **limit)), expected)


def test_dropout_and_direction_apart_from_length(base: Path, plain: Result) -> None:
    """Each step draws its own masks, again the same in a run that is done again."""
    kinds: list[dict[str, Any]] = [{"dropout": 0.5}, {"useDora": True}]
    for number, knobs in enumerate(kinds):
        runs = [trained(base, f"kind-{number}-{turn}", method=lora(**knobs)) for turn in range(2)]
        assert runs[0].losses == runs[1].losses
        torch.testing.assert_close(runs[0].weights, runs[1].weights, atol=0, rtol=0)
        assert runs[0].losses[-1] < runs[0].losses[0]
        # B is zero until the first step's rate, which is zero, has passed.
        assert runs[0].losses[2:] != pytest.approx(plain.losses[2:], abs=1e-5)
    assert any("magnitude" in name for name in runs[0].weights)


def test_the_guide_chooses_rank_and_scale(base: Path) -> None:
    found = trained(base, "guided", method={"method": "lora", "lora": None}, maxSteps=1)
    assert {min(weight.shape) for weight in found.weights.values()} == {16}
    config = AutoPeftModelForCausalLM.from_pretrained(base / "guided/output").peft_config["default"]
    assert (config.r, config.lora_alpha, config.lora_dropout) == (16, 32, 0.0)


def test_the_result_is_an_adapter_that_peft_loads(base: Path) -> None:
    found = trained(base, "loaded", 2, method=lora())
    model = AutoPeftModelForCausalLM.from_pretrained(base / "loaded/output")
    stored = json.loads((base / "loaded/output/adapter_config.json").read_bytes())
    assert stored["target_modules"] == sorted(LINEAR)
    assert model.peft_config["default"].base_model_name_or_path == str(base / "model")
    alone = AutoModelForCausalLM.from_pretrained(base / "model")
    ids = AutoTokenizer.from_pretrained(base / "loaded/output")("What is it?", return_tensors="pt").input_ids
    weights = merged(base, found).weights
    expected = torch.func.functional_call(alone, weights, (ids,)).logits
    torch.testing.assert_close(model(ids).logits, expected, atol=1e-4, rtol=0)
    assert (alone(ids).logits - expected).abs().max() > 0.05


def test_a_model_of_the_hub_is_named_as_it_is_there(base: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "hub/models--acme--tiny-1B/snapshots/0123abc"
    save_tiny_model(snapshot)
    run = gangs.config(base, name="hub", maxSteps=1)
    locations = run.locations.model_copy(update={"model": str(snapshot)})
    forked.train(run.model_copy(update=lora() | {"locations": locations}))
    config = json.loads((base / "hub/output/adapter_config.json").read_bytes())
    assert (config["base_model_name_or_path"], config["revision"]) == ("acme/tiny-1B", "0123abc")


def test_only_adapters_are_kept(base: Path) -> None:
    run = gangs.config(base, name="kept", nodes=2, **HYPERPARAMETERS)
    forked.train(run.model_copy(update=lora()))
    storage = base / "kept"
    for directory in (storage / "output", *sorted((storage / names.CHECKPOINTS_DIR).iterdir())):
        with safe_open(str(directory / "adapter_model.safetensors"), "pt") as file:
            assert all(".lora_" in name for name in file.keys())  # noqa: SIM118
        assert [file.name for file in directory.glob("*.safetensors")] == ["adapter_model.safetensors"]


def test_the_report_tells_what_is_trained(base: Path) -> None:
    trained(base, "told", 2, method=lora(useDora=True), maxSteps=2)
    config = gangs.config(base, name="told", nodes=2).model_copy(update=lora(useDora=True))
    report = history.last_report(Storage.of(config), 1)
    assert report.plan is not None
    found = load_file(base / "told/output/adapter_model.safetensors")
    assert report.plan.trainable_parameters == sum(weight.numel() for weight in found.values())
    assert report.output is not None
    assert report.output.format == "adapter"
    facts = model_facts(base / "model")
    assert facts is not None
    assert report.plan.trainable_parameters == trainable_parameters(config.recipe, facts.architecture)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_beside_a_narrow_model_adapters_compute_as_narrow_and_learn_in_fp32(
    base: Path, dropout: float
) -> None:
    def adapted(dtype: torch.dtype) -> PeftModel:
        torch.manual_seed(SEED)
        hf = AutoModelForCausalLM.from_pretrained(base / "model", dtype=dtype).requires_grad_(False)
        made = adapt(hf, Lora(dropout=dropout), r=R, alpha=ALPHA, base=Named("x"))
        for name, weight in made.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(weight, std=0.05)
        return made

    ids = torch.arange(48)[None]
    wide, narrow = adapted(torch.float32).eval(), adapted(torch.bfloat16).eval()
    torch.testing.assert_close(narrow(ids).logits.float(), wide(ids).logits, atol=0.05, rtol=0)
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        narrow.train()(ids).logits.float().square().mean().backward()
    trained = {name: weight for name, weight in narrow.named_parameters() if weight.requires_grad}
    assert {weight.dtype for weight in trained.values()} == {torch.float32}
    assert all(weight.grad is not None and weight.grad.dtype == torch.float32 for weight in trained.values())
    # RMSNorm keeps its inputs in fp32, which are as wide as the model; a block's last layer reads wider ones.
    assert not [
        tensor for tensor in kept if tensor.dtype == torch.float32 and tensor.shape[-1] in (R, 2 * WIDTH)
    ]


def test_a_name_that_matches_nothing_ends_it_with_what_there_is(base: Path) -> None:
    run = gangs.config(base, name="idle").model_copy(update=lora(targetModules=["q_proj", "quark"]))
    [end] = gangs.run(run)
    assert end.exit_code == ExitCode.INVALID_CONFIGURATION
    assert "spec.lora.targetModules" in end.reason
    assert "'quark'" in end.reason
    assert "down_proj" in end.reason


def test_killed_at_any_moment_it_ends_as_if_nothing_had_happened(base: Path) -> None:
    course = Course(base, {"everySteps": 1, "keepLast": 1}, method="lora")
    for moment, kind, nth in [
        (Moment.GRADIENTS, "", 2),
        (Moment.STEP, "", 2),
        (Moment.FILE, STATE, 2),
        (Moment.RENAME, STATE, 1),
        (Moment.RENAME, OUTPUT, 1),
    ]:
        fault = Fault(course.storage, moment, kind, nth)
        assert course.attempt(2, fault)[0] == -9, f"not hit: {fault}"
    assert course.finish(2) == Course(base, method="lora").finish(2)


def test_a_state_goes_on_with_any_number_of_processes(base: Path) -> None:
    course, alone = (
        Course(base, {"everySteps": 1, "everyEpoch": False}, method="lora"),
        Course(base, method="lora"),
    )
    for world_size in (1, 2, 3):
        assert course.attempt(world_size, Fault(course.storage, Moment.BEGUN, nth=3))[0] == -9
    assert course.newest_state() >= 6
    for ours, theirs in zip(course.finish(2).steps, alone.finish().steps, strict=True):
        assert ours.loss == pytest.approx(theirs.loss, abs=1e-5)
    one, other = (load_file(each.storage / "output/adapter_model.safetensors") for each in (course, alone))
    torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


def test_it_does_not_go_on_beside_another_model(base: Path, tmp_path: Path) -> None:
    save_tiny_model(tmp_path / "model")
    save_chat_data(tmp_path / "train.jsonl", samples=SAMPLES)
    Course(tmp_path, {"everySteps": 1}, method="lora").expect_another_model_refused(tmp_path / "model")
