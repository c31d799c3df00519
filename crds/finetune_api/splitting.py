"""Pure: how a split model's blocks are dealt to GPUs. The trainer places them so, and the plan counts on it."""

from collections import Counter


def blocks_per_gpu(layers: int, gpus: int, *, tied_embeddings: bool) -> list[int]:
    """Blocks of each GPU, in the order of the forward pass; as even as they go.

    The first GPU has the embedding as well. The last one has the output head, unless that is the same matrix. Where the
    blocks do not divide evenly, GPUs that have neither get one more, as far as there are such.
    """
    ends = Counter([0, 0 if tied_embeddings else gpus - 1])
    each, left = divmod(layers, gpus)
    with_more = sorted(range(gpus), key=lambda gpu: ends[gpu])[:left]
    return [each + (gpu in with_more) for gpu in range(gpus)]
