"""What the rule book says about jobs, for its tests."""

from typing import Any

from finetune_api.architecture import from_config, named_size, typical
from finetune_api.facts import DataFacts, Finding, ModelFacts
from finetune_api.plan import review
from finetune_api.recipe import Recipe
from finetune_api.spec import FineTuneJob
from finetune_api.status import Lengths, MicroBatches
from world import manifest


def model(
    hidden: int,
    layers: int,
    heads: int,
    kv_heads: int,
    intermediate: int,
    vocabulary: int,
    context: int = 32768,
) -> ModelFacts:
    """A model whose configuration is known."""
    config = {
        "model_type": "llama",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": intermediate,
        "vocab_size": vocabulary,
        "max_position_embeddings": context,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }
    return ModelFacts(from_config(config))


def named(name: str) -> ModelFacts:
    """A model of which only the name is known."""
    size = named_size(name)
    assert size is not None
    return ModelFacts(typical(size), guessed_from=name)


# Shapes as their makers publish them, but with the names of Llama's layers.
SMALL = model(1536, 28, 12, 2, 8960, 151936)  # 1.8 billion weights, as Qwen2.5-1.5B with a head of its own
MIDDLE = model(3584, 28, 28, 4, 18944, 152064)  # 7.6 billion, as Qwen2.5-7B
LARGE = model(4096, 32, 32, 8, 14336, 128256, context=8192)  # 8.03 billion, as Llama 3 8B
HUGE = model(8192, 80, 64, 8, 28672, 128256)  # 70.6 billion, as Llama 3 70B


def data(
    samples: int = 500,
    *,
    lengths: tuple[int, int, int, int] | None = None,
    dropped: int = 0,
    micro_batches: int | None = None,
) -> DataFacts:
    """Data of which `lengths` are the median, the 95th and 99th percentile and the longest."""
    measured = (
        None
        if micro_batches is None
        else MicroBatches(min=micro_batches, mean=micro_batches, max=micro_batches)
    )
    if lengths is None:
        return DataFacts(samples=samples, dropped=dropped, micro_batches=measured)
    p50, p95, p99, longest = lengths
    return DataFacts(samples, dropped, Lengths(p50=p50, p95=p95, p99=p99, max=longest), measured)


def recipe(method: str = "sft", **spec: Any) -> Recipe:
    """The recipe of a job on one GPU of unknown memory, changed as told."""
    wire = manifest(**{"resources": gpus(None), "method": method, **spec})
    return Recipe.of_spec(FineTuneJob.model_validate(wire).spec)


def gpus(memory: str | None, *, nodes: int = 1, per_node: int = 1) -> dict[str, Any]:
    """The resources block of a job on GPUs of that much memory."""
    return {"nodes": nodes, "gpusPerNode": per_node} | ({"gpuMemory": memory} if memory else {})


def findings(
    method: str = "sft", model: ModelFacts | None = None, data: DataFacts | None = None, **spec: Any
) -> list[Finding]:
    """Everything that the rules say about a job."""
    return review(recipe(method, **spec), model, data).findings


def told(
    method: str = "sft", model: ModelFacts | None = None, data: DataFacts | None = None, **spec: Any
) -> dict[str, str]:
    """The same, as messages by rule."""
    return {finding.rule: finding.message for finding in findings(method, model, data, **spec)}
