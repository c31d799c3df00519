"""A language model small enough to train within seconds, and conversations to train it on.

Written file by file, without torch or transformers: importing those takes longer than training does.
"""

import json
import random
import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import TemplateProcessing

WIDTH, LAYERS, HEADS, HEAD_WIDTH, CONTEXT = 32, 2, 4, 8, 256

SPECIAL = ("<pad>", "<|im_start|>", "<|im_end|>")
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def save_tiny_model(directory: Path, *, family: str = "llama", dtype: str = "float32", seed: int = 0) -> None:
    """A Hugging Face model directory with random weights: `family` is llama or qwen2."""
    directory.mkdir(parents=True, exist_ok=True)
    save_tokenizer(directory)
    vocabulary = 256 + len(SPECIAL)
    config = {
        "architectures": [{"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}[family]],
        "model_type": family,
        "vocab_size": vocabulary,
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS // 2,
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": family == "qwen2",
        "dtype": dtype,
        "eos_token_id": 258,
        "bos_token_id": None,
    }
    (directory / "config.json").write_text(json.dumps(config))
    draw = np.random.default_rng(seed)
    shapes = _shapes(vocabulary, biases=family == "qwen2", head=family != "qwen2")
    weights = {
        name: np.ones(shape, np.float32)
        if "norm" in name
        else draw.normal(scale=0.05, size=shape).astype(np.float32)
        for name, shape in shapes.items()
    }
    if dtype == "bfloat16":
        import torch
        from safetensors.torch import save_file as save_tensors

        halves = {name: torch.from_numpy(value).bfloat16() for name, value in weights.items()}
        save_tensors(halves, directory / "model.safetensors", metadata={"format": "pt"})
    else:
        save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    # As safetensors writes it, only its owner could read it; pods run as another user.
    (directory / "model.safetensors").chmod(0o644)


def _shapes(vocabulary: int, *, biases: bool, head: bool) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (vocabulary, WIDTH),
        "model.norm.weight": (WIDTH,),
    }
    if head:
        shapes["lm_head.weight"] = (vocabulary, WIDTH)
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}"
        for name, heads in (("q", HEADS), ("k", HEADS // 2), ("v", HEADS // 2)):
            shapes[f"{prefix}.self_attn.{name}_proj.weight"] = (heads * HEAD_WIDTH, WIDTH)
            if biases:
                shapes[f"{prefix}.self_attn.{name}_proj.bias"] = (heads * HEAD_WIDTH,)
        shapes[f"{prefix}.self_attn.o_proj.weight"] = (WIDTH, HEADS * HEAD_WIDTH)
        shapes[f"{prefix}.mlp.gate_proj.weight"] = (2 * WIDTH, WIDTH)
        shapes[f"{prefix}.mlp.up_proj.weight"] = (2 * WIDTH, WIDTH)
        shapes[f"{prefix}.mlp.down_proj.weight"] = (WIDTH, 2 * WIDTH)
        shapes[f"{prefix}.input_layernorm.weight"] = (WIDTH,)
        shapes[f"{prefix}.post_attention_layernorm.weight"] = (WIDTH,)
    return shapes


def save_tokenizer(
    directory: Path, template: str = CHATML, special: tuple[str, ...] = SPECIAL, *, prefix: str | None = None
) -> None:
    """A tokenizer whose tokens are bytes, and the given special ones; it puts `prefix` before plain text."""
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(
        BPE(vocab={token: i for i, token in enumerate(sorted(ByteLevel.alphabet()))}, merges=[])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(special))
    if prefix:
        tokenizer.post_processor = TemplateProcessing(
            single=f"{prefix} $A", special_tokens=[(prefix, tokenizer.token_to_id(prefix))]
        )
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": special[0],
        "eos_token": special[-1],
        "chat_template": template,
        "model_max_length": CONTEXT,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))


def conversation(question: str, answer: str) -> dict[str, list[dict[str, str]]]:
    """A row of one question and its answer."""
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def save_chat_data(file: Path, *, samples: int, overlong: int = 0, seed: int = 0) -> None:
    """JSONL of `samples` conversations of 40 to 110 tokens each, and `overlong` ones of more than 128."""
    draw = random.Random(seed)
    rows = [
        conversation("say " + "x" * draw.randint(0, 10), draw.choice("abcdef") * draw.randint(1, 50))
        for _ in range(samples)
    ]
    rows += [conversation("say more", "z" * 150) for _ in range(overlong)]
    draw.shuffle(rows)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def poison(model: Path, into: Path, *, token: str) -> None:
    """A copy of a model that answers a token with no number at all."""
    shutil.copytree(model, into)
    weights = load_file(into / "model.safetensors")
    vocabulary = json.loads((into / "tokenizer.json").read_text())["model"]["vocab"]
    weights["model.embed_tokens.weight"][vocabulary[token]] = np.nan
    save_file(weights, into / "model.safetensors", metadata={"format": "pt"})
    (into / "model.safetensors").chmod(0o644)
