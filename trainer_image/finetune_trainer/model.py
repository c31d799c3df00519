"""Loading a base model, proving that it can be trained as we train, dividing it among processes, writing it out."""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import safe_open
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, PreTrainedModel

from finetune_trainer.attention import PER_SAMPLE
from finetune_trainer.distributed import Gang
from finetune_trainer.ends.errors import InvalidConfigurationError
from finetune_trainer.loss import Head, summed_cross_entropy

# Differences in fp32 that come from the order of additions alone, relative to the largest logit.
_TOLERANCE = 1e-4


class TrainableModel(nn.Module):
    """A causal language model that returns the summed loss of packed samples."""

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
    ) -> Tensor:
        """Sum of the cross-entropy at the positions `predicting` against `targets`; see inputs.Inputs.

        input_ids, position_ids: [1, tokens]. boundaries: [samples + 1]. predicting, targets: [n].
        """
        hidden = self.hidden(input_ids, position_ids, sample_lengths, boundaries)
        return summed_cross_entropy(hidden[0, predicting], targets, self.head())

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
    except (OSError, ValueError, KeyError) as error:
        raise InvalidConfigurationError(f"spec.model: cannot read config.json: {error}") from error
    return config


def skeleton(config: PreTrainedConfig) -> PreTrainedModel:
    """The model without memory for its weights. Raises InvalidConfigurationError."""
    try:
        with torch.device("meta"):
            # A copy, for transformers writes both choices into it.
            hf: PreTrainedModel = AutoModelForCausalLM.from_config(
                copy.deepcopy(config), dtype=torch.float32, attn_implementation=PER_SAMPLE
            )
    except (ValueError, KeyError) as error:
        raise InvalidConfigurationError(
            f"spec.model: cannot make the model for training: {error!r}"
        ) from error
    return hf


def load(directory: Path) -> PreTrainedModel:
    """The base model in fp32, in main memory. Raises InvalidConfigurationError where we cannot train it rightly."""
    try:
        hf: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            directory,
            dtype=torch.float32,
            attn_implementation=PER_SAMPLE,
            use_safetensors=True,
            local_files_only=True,
        )
    except (OSError, ValueError, KeyError) as error:
        raise InvalidConfigurationError(f"spec.model: cannot load the model: {error}") from error
    _prove(hf)
    return hf


@torch.no_grad()
def _prove(hf: PreTrainedModel) -> None:
    """Make sure that packed samples do not see one another, and that our logits are the model's own.

    Families differ in what they do to attention and to logits. What is not known here must not be trained wrongly
    in silence; a few tokens tell.
    """
    lengths = [5, 3]
    ids = torch.arange(sum(lengths))[None] % hf.config.get_text_config().vocab_size
    ours = TrainableModel(hf.eval())
    kind = f"spec.model: {type(hf).__name__}"
    try:
        packed = ours.head().logits(ours.hidden(ids, *_places(lengths)))
        # The plainest of the model's own implementations, which knows all that is special in its family.
        hf.set_attn_implementation("eager")
        alone = [hf(input_ids=part, use_cache=False).logits for part in ids.split(lengths, dim=1)]
        hf.set_attn_implementation(PER_SAMPLE)
    except (TypeError, ValueError, AttributeError, AssertionError) as error:
        raise InvalidConfigurationError(f"{kind} cannot be trained on packed samples: {error}") from error
    expected = torch.cat(alone, dim=1)
    difference = (packed - expected).abs().max() / expected.abs().max()
    if not difference <= _TOLERANCE:
        raise InvalidConfigurationError(
            f"{kind} cannot be trained on packed samples: its logits differ by {difference:.2g} of the largest from "
            "those that it computes for each sample alone"
        )


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


def exchange_gradients(model: TrainableModel, *, now: bool) -> None:
    """Whether the next backward pass exchanges gradients, or adds them to whole ones that a later pass exchanges."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(now)
        if next(model.parameters()).device.type == "cpu":
            # Weights gathered once serve until then.
            model.set_reshard_after_backward(now)


def full_weights(
    hf: PreTrainedModel, dtype: torch.dtype, *, keep: bool, tick: Callable[[], None]
) -> dict[str, Tensor]:
    """All weights under their names, tied ones once, in `dtype` and main memory, where `keep` says so.

    Every process takes part. `tick` is called after each weight.
    """
    result: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, value in hf.state_dict(keep_vars=True).items():
        if id(value) in seen:
            continue
        seen.add(id(value))
        whole = value.detach()
        if isinstance(whole, DTensor):
            whole = whole.full_tensor()
        if keep:
            result[name] = whole.to("cpu", dtype if whole.is_floating_point() else whole.dtype, copy=True)
        tick()
    return result


def stored_dtype(directory: Path, config: PreTrainedConfig) -> torch.dtype:
    """The type in which the base model keeps its weights; the trained one keeps them in the same."""
    if isinstance(config.dtype, torch.dtype):
        return config.dtype
    file = sorted(directory.glob("*.safetensors"))[0]
    with safe_open(str(file), framework="pt") as weights:
        dtype: torch.dtype = weights.get_tensor(next(iter(weights.keys()))).dtype
    return dtype


def write(
    hf: PreTrainedModel, weights: dict[str, Tensor], dtype: torch.dtype, base: Path, into: Path
) -> None:
    """Write an ordinary Hugging Face model: config, safetensors, and the base model's tokenizer."""
    hf.save_pretrained(into, state_dict=weights)
    # save_pretrained writes down the type that the model has in training.
    config = hf.config.to_dict() | {"dtype": str(dtype).removeprefix("torch.")}
    type(hf.config).from_dict(config).save_pretrained(into)
    AutoTokenizer.from_pretrained(base, local_files_only=True).save_pretrained(into)
