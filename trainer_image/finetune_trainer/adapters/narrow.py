"""Adapters that are trained in fp32 and compute as narrow as the model beside them.

peft widens an adapter's input to the fp32 of its weights: a copy of it for each adapter, kept for the backward pass,
and products in fp32. Here the weights are narrowed instead, which are small; FSDP does the same to what it divides.
"""

from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn import functional


class NarrowLinear(nn.Linear):
    """A linear layer that computes in the type of its input, whatever that of its weight."""

    def forward(self, input: Tensor) -> Tensor:
        """The product: [..., outputs] of [..., inputs]."""
        return functional.linear(input, self.weight.to(input.dtype))


def narrow(adapted: PeftModel) -> None:
    """Have all adapters compute in the type of their inputs."""
    for layer in adapted.modules():
        if isinstance(layer, LoraLayer):
            layer.cast_input_dtype_enabled = False
            for linears in (layer.lora_A, layer.lora_B):
                for name, linear in linears.items():
                    linears[name] = _of(linear)


def _of(linear: nn.Module) -> NarrowLinear:
    assert isinstance(linear, nn.Linear)
    assert linear.bias is None
    made = NarrowLinear(linear.in_features, linear.out_features, bias=False, device="meta")
    made.weight = linear.weight
    return made
