"""Loading a base model, proving that it can be trained as we train, dividing it among processes."""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from finetune_trainer.attention import PER_SAMPLE
from finetune_trainer.distributed import Gang
from finetune_trainer.ends.errors import InvalidConfigurationError
from finetune_trainer.loading import is_of_the_machine, load_model, words
from finetune_trainer.loss import Head, summed_cross_entropy

# Differences in fp32 that come from the order of additions alone, relative to the largest logit.
_TOLERANCE = 1e-4
# What transformers makes masks of windows by, and a size that the shortest sample of the proof is longer than.
_WINDOWS = ("sliding_window", "attention_chunk_size")
_NARROW = 2


# What is wanted of hidden states [n, width]: it gets them, the tokens that follow [n], and the head.
Measure = Callable[[Tensor, Tensor, Head], Tensor]


class TrainableModel(nn.Module):
    """A causal language model that returns the summed loss of packed samples, or what else is wanted of them."""

    def __init__(self, hf: PreTrainedModel) -> None:
        super().__init__()
        self.hf = hf

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        sample_lengths: Sequence[int],
        boundaries: Tensor,
        predicting: Tensor,
        targets: Tensor,
        measure: Measure = summed_cross_entropy,
    ) -> Tensor:
        """The `measure` of the hidden states at the positions `predicting` against `targets`; see inputs.Inputs.

        input_ids, position_ids: [1, tokens]. boundaries: [samples + 1]. predicting, targets: [n]. Whatever is wanted
        of the model goes through here: this is the call for which FSDP gathers its weights.
        """
        hidden, head = self.hidden(input_ids, position_ids, sample_lengths, boundaries), self.head()
        # Of a model that is split, neither the last block nor the head need be where the data are.
        predicting, targets = predicting.to(hidden.device), targets.to(head.weight.device)
        return measure(hidden[0, predicting].to(head.weight.device), targets, head)

    def hidden(
        self, input_ids: Tensor, position_ids: Tensor, sample_lengths: Sequence[int], boundaries: Tensor
    ) -> Tensor:
        """The last hidden states, [1, tokens, width]."""
        output = self.hf.base_model(
            input_ids=input_ids,
            position_ids=position_ids,
            sample_lengths=sample_lengths,
            boundaries=boundaries,
            use_cache=False,
        )
        states: Tensor = output.last_hidden_state
        return states

    def head(self) -> Head:
        """The output head, with what the model's family does to logits."""
        config = self.hf.config.get_text_config()
        layer = self.hf.get_output_embeddings()
        scale = getattr(config, "logit_scale", None) or 1.0
        return Head(
            layer.weight,
            getattr(layer, "bias", None),
            scale=scale / (getattr(config, "logits_scaling", None) or 1.0),
            cap=getattr(config, "final_logit_softcapping", None),
        )


def load_config(directory: Path) -> PreTrainedConfig:
    """The configuration of a base model. Raises InvalidConfigurationError."""
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(directory, local_files_only=True)
    except Exception as error:
        raise InvalidConfigurationError(f"spec.model: cannot read config.json: {words(error)}") from error
    return config


def skeleton(config: PreTrainedConfig) -> PreTrainedModel:
    """The model without memory for its weights. Raises InvalidConfigurationError."""
    try:
        with torch.device("meta"):
            # A copy, for transformers writes both choices into it.
            hf: PreTrainedModel = AutoModelForCausalLM.from_config(
                copy.deepcopy(config), dtype=torch.float32, attn_implementation=PER_SAMPLE
            )
    except Exception as error:
        if is_of_the_machine(error):
            raise
        raise InvalidConfigurationError(
            f"spec.model: cannot make the model for training: {error!r}"
        ) from error
    return hf


def load(directory: Path) -> PreTrainedModel:
    """The base model in fp32, in main memory. Raises InvalidConfigurationError where we cannot train it rightly."""
    hf = load_model(directory, "spec.model", dtype=torch.float32, attn_implementation=PER_SAMPLE)
    prove(hf)
    return hf


@torch.no_grad()
def prove(hf: PreTrainedModel) -> None:
    """Make sure that packed samples do not see one another, and that our logits are the model's own.

    Families differ in what they do to attention and to logits. What is not known here must not be trained wrongly
    in silence; a few tokens tell. The model is in fp32. Raises InvalidConfigurationError.
    """
    ours = TrainableModel(hf.eval())
    kind = f"spec.model: {type(hf).__name__}"
    if not (difference := _difference(ours, kind)) <= _TOLERANCE:
        raise InvalidConfigurationError(
            f"{kind} cannot be trained on packed samples: its logits differ by {difference:.2g} of the largest from "
            "those that it computes for each sample alone"
        )
    # Some families tell the mask alone of their window, and we have no mask.
    with _narrow_windows(hf) as windows:
        if windows and not (difference := _difference(ours, kind)) <= _TOLERANCE:
            stated = ", ".join(f"{name}: {size}" for name, size in sorted(windows.items()))
            raise InvalidConfigurationError(
                f"{kind} cannot be trained on samples longer than the window of its attention ({stated} in "
                f"config.json): beyond it, its logits differ by {difference:.2g} of the largest from those that it "
                "computes for each sample alone. Choose a model of another family; or, if no sample is longer, a copy "
                "of this one whose config.json sets no window"
            )


def _difference(ours: TrainableModel, kind: str) -> float:
    """How far our logits of packed samples are from the model's own of each alone, relative to the largest.

    Raises InvalidConfigurationError, which begins with `kind`, where they cannot be computed.
    """
    hf, lengths = ours.hf, [5, 3]
    ids = torch.arange(sum(lengths))[None] % hf.config.get_text_config().vocab_size
    try:
        packed = ours.head().logits(ours.hidden(ids, *_places(lengths)))
        # The plainest of the model's own implementations, which knows all that is special in its family.
        hf.set_attn_implementation("eager")
        alone = [hf(input_ids=part, use_cache=False).logits for part in ids.split(lengths, dim=1)]
        hf.set_attn_implementation(PER_SAMPLE)
    except (TypeError, ValueError, AttributeError, AssertionError) as error:
        raise InvalidConfigurationError(f"{kind} cannot be trained on packed samples: {error}") from error
    expected = torch.cat(alone, dim=1)
    return float((packed - expected).abs().max() / expected.abs().max())


@contextmanager
def _narrow_windows(hf: PreTrainedModel) -> Iterator[dict[str, int]]:
    """For a while, windows of attention that the samples of the proof do not fit in. Yields what they were.

    A window as long as the model's context is left as it is: it does nothing within that.
    """
    longest = getattr(hf.config.get_text_config(), "max_position_embeddings", None) or math.inf
    # Masks are made by configurations, of which parts of a model may have their own; layers keep copies.
    configs = {id(part.config): part.config for part in hf.modules() if hasattr(part, "config")}
    kept = [
        (owner, name, size)
        for owner in (*configs.values(), *hf.modules())
        for name in _WINDOWS
        if isinstance(size := getattr(owner, name, None), int) and _NARROW < size < longest
    ]
    try:
        for owner, name, _ in kept:
            setattr(owner, name, _NARROW)
        yield {name: size for _, name, size in kept}
    finally:
        for owner, name, size in kept:
            setattr(owner, name, size)


def _places(lengths: Sequence[int]) -> tuple[Tensor, Sequence[int], Tensor]:
    """Positions, lengths and boundaries of samples that lie one behind the other."""
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    boundaries = torch.tensor([0, *lengths]).cumsum(0, dtype=torch.int32)
    return positions, lengths, boundaries


def distribute(
    loaded: PreTrainedModel | None, config: PreTrainedConfig, gang: Gang, *, activation_checkpointing: bool
) -> TrainableModel:
    """A model to train on all processes of the gang, with the weights that rank 0 loaded (`loaded` there alone).

    Several processes, or a GPU, get FSDP2: each keeps its share of the fp32 weights; GPUs compute in bf16. A single
    process on the CPU has nothing to divide. With `activation_checkpointing` a block keeps its input alone, and
    repeats its forward pass in the backward pass.
    """
    on_gpu = gang.device.type == "cuda"
    whole = loaded if gang.world_size == 1 and not on_gpu else None
    model = TrainableModel((whole or skeleton(config)).train())
    if activation_checkpointing:
        model.hf.activation_checkpointing_enable({"use_reentrant": False})
    if whole:
        return model
    shard(model, gang.mesh(), on_gpu=on_gpu)
    model.to_empty(device=gang.device)
    weights = {f"hf.{name}": value for name, value in loaded.state_dict().items()} if loaded else {}
    set_model_state_dict(
        model, weights, options=StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    )
    # Buffers that are computed, not stored, are in no state dict.
    source = dict(loaded.named_buffers()) if loaded else {}
    for name, buffer in model.hf.named_buffers():
        if name in source:
            buffer.copy_(source[name])
        dist.broadcast(buffer, src=0)
    return model


def shard(model: TrainableModel, mesh: DeviceMesh, *, on_gpu: bool) -> None:
    """Divide the fp32 weights of a model among the processes of a mesh, by FSDP2.

    GPUs compute in bf16, add gradients up in fp32, and hold the weights of a block no longer than it computes. On the
    CPU memory is not what is short: weights gathered once serve a whole step.
    """
    precision = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    options: dict[str, Any] = {"mesh": mesh, "reshard_after_forward": on_gpu}
    if on_gpu:
        options["mp_policy"] = precision
    for block in blocks(model.hf).values():
        fully_shard(block, **options)
    fully_shard(model, **options)


def blocks(hf: PreTrainedModel) -> dict[str, nn.Module]:
    """The layers that a model is a stack of, by their names in it."""
    kinds = set(hf._no_split_modules or ())
    # FSDP2 gives a module another class, a subclass of its own.
    return {
        name: module
        for name, module in hf.named_modules()
        if any(kind.__name__ in kinds for kind in type(module).__mro__)
    }


def linear_layers(hf: PreTrainedModel) -> dict[str, nn.Parameter]:
    """The weights of the linear layers of a model's blocks, by the names of these."""
    return {
        f"{block}.{name}": module.get_parameter("weight")
        for block, layer in blocks(hf).items()
        for name, module in layer.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
    }


def exchange_gradients(model: TrainableModel, *, now: bool) -> None:
    """Whether the next backward pass exchanges gradients, or adds them to whole ones that a later pass exchanges."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(now)
        if next(model.parameters()).device.type == "cpu":
            # Weights gathered once serve until then.
            model.set_reshard_after_backward(now)
