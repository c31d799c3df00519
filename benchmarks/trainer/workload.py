"""What all systems train on: a small model of Llama's shape, its tokenizer, and conversations of chosen lengths.

Everything is made here, so nothing is downloaded: the text is the source code of Python's standard library, on which
the tokenizer is trained too.
"""

import json
import sysconfig
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

VOCABULARY = 32_000
CONTEXT = 2048
SPECIAL = ("<|pad|>", "<|im_start|>", "<|im_end|>")
# ChatML, with the marks that TRL needs to know the assistant's tokens. What is between them is what we train on too.
TEMPLATE = """\
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{% if message.role == 'assistant' %}{% generation %}{{ message.content }}<|im_end|>{% endgeneration %}
{% else %}{{ message.content }}<|im_end|>
{% endif %}
{%- endfor -%}
{%- if add_generation_prompt -%}<|im_start|>assistant
{% endif -%}
"""
# Tokens that the template puts around one message.
_AROUND = 5
_CORPUS_BYTES = 6_000_000

Lengths = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Shape:
    """A model's size."""

    width: int
    layers: int
    heads: int
    key_value_heads: int
    feed_forward: int
    vocabulary: int

    @property
    def parameters(self) -> int:
        """Weights, the embedding counted once, for it is the head too."""
        attention = 2 * self.width * self.width * (1 + self.key_value_heads / self.heads)
        layer = attention + 3 * self.width * self.feed_forward + 2 * self.width
        return int(self.layers * layer) + (self.vocabulary + 1) * self.width


# 22.6 million parameters: minutes on two cores.
SMALL = Shape(width=320, layers=10, heads=5, key_value_heads=5, feed_forward=864, vocabulary=VOCABULARY)
# The shape of Qwen2.5-0.5B, for a GPU.
HALF_BILLION = Shape(width=896, layers=24, heads=14, key_value_heads=2, feed_forward=4864, vocabulary=151_936)


class Corpus:
    """Text to make conversations of, as the tokens of a tokenizer that was trained on it."""

    def __init__(self, tokenizer_file: Path) -> None:
        """Read the tokenizer, or train it if it is not there."""
        if not tokenizer_file.exists():
            tokenizer_file.parent.mkdir(parents=True, exist_ok=True)
            _trained(_text()).save(str(tokenizer_file))
        self.tokenizer = Tokenizer.from_file(str(tokenizer_file))

    @cached_property
    def _ids(self) -> list[int]:
        ids: list[int] = self.tokenizer.encode(_text()[: _CORPUS_BYTES // 3]).ids
        return ids

    def passage(self, start: int, tokens: int) -> str:
        """About `tokens` tokens of text; passages of different starts differ."""
        begin = (start * 7919) % (len(self._ids) - tokens)
        text: str = self.tokenizer.decode(self._ids[begin : begin + tokens])
        # The template trims nothing, but a message of blanks alone says nothing.
        return text.strip() or "..."


def llama(
    shape: Shape, *, seed: int = 0, padding: int | None = None, end: int | None = None
) -> "LlamaForCausalLM":
    """Llama with random weights in fp32; `padding` and `end` are ids of special tokens."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.feed_forward,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_value_heads,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        pad_token_id=padding,
        eos_token_id=end,
    )
    torch.manual_seed(seed)
    return LlamaForCausalLM(config)


def save_model(
    directory: Path, corpus: Corpus, shape: Shape, *, dtype: str = "float32", seed: int = 0
) -> None:
    """A Hugging Face directory with random weights, the tokenizer and its chat template."""
    import torch

    padding, _, end = (corpus.tokenizer.token_to_id(token) for token in SPECIAL)
    model = llama(shape, seed=seed, padding=padding, end=end)
    model.to(getattr(torch, dtype)).save_pretrained(directory)
    corpus.tokenizer.save(str(directory / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": SPECIAL[0],
        "eos_token": SPECIAL[2],
        "model_max_length": CONTEXT,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    (directory / "chat_template.jinja").write_text(TEMPLATE)


def save_conversations(file: Path, corpus: Corpus, lengths: Lengths) -> None:
    """JSONL of one conversation for each length (in tokens, exact to a few).

    Conversations have one to three exchanges, of which the assistant says about two thirds.
    """
    with file.open("w") as out:
        for number, length in enumerate(lengths.tolist()):
            exchanges = min(1 + number % 3, max(1, length // 60))
            each = max(6, length // exchanges - 2 * _AROUND)
            asked = max(2, each // 3)
            messages = []
            for exchange in range(exchanges):
                start = 10 * number + 2 * exchange
                messages += [
                    {"role": "user", "content": corpus.passage(start, asked)},
                    {"role": "assistant", "content": corpus.passage(start + 1, each - asked)},
                ]
            out.write(json.dumps({"messages": messages}) + "\n")


def lengths_with_padding(
    samples: int, *, padding: float, mean: float, longest: int, batch: int, seed: int
) -> Lengths:
    """Log-normal lengths, spread so far that batches of `batch` samples, padded to their longest, hold this padding.

    The samples are dealt into batches in the order in which they are given.
    """
    normal = np.random.default_rng(seed).standard_normal(samples)

    def lengths(spread: float) -> Lengths:
        drawn = mean * np.exp(spread * normal - spread**2 / 2)
        return np.clip(drawn, 12, longest).astype(np.int64)

    low, high = 0.0, 3.0
    for _ in range(40):
        middle = (low + high) / 2
        if padding_share(lengths(middle), batch) < padding:
            low = middle
        else:
            high = middle
    return lengths(high)


def padding_share(lengths: Lengths, batch: int) -> float:
    """Share of the tokens that is padding when each `batch` samples are padded to their longest."""
    padded = sum(part.max() * len(part) for part in np.split(lengths, range(batch, len(lengths), batch)))
    return 1 - float(lengths.sum() / padded)


def _text() -> str:
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    return "\n".join(file.read_text(errors="replace") for file in files)[:_CORPUS_BYTES]


def _trained(text: str) -> Tokenizer:
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(text.splitlines(keepends=True), trainer)
    assert tokenizer.get_vocab_size() == VOCABULARY, "this Python's standard library is too small a text"
    return tokenizer
