"""Chat templates in the styles of well-known families, each with a tokenizer of the kind that it comes with.

The templates are in `templates/`, written for the tests; what an answer is to come to is said here a second time.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer

# Enough of it for words, blanks and headers to become tokens of several characters.
CORPUS = [
    "system user assistant model tool hello yes no question answer where is the answer to that question",
    '<|user|>\n<|assistant|>\n\n\n<tool_call>\n{"name": "look", "arguments": {"where": "here"}}\n</tool_call>',
    "<think>\nhello there\n</think>\n\nanswer  yes   no\n\n hello \n hello\nwhere\n",
] * 4


@dataclass(frozen=True)
class Style:
    """A template and what it does."""

    name: str
    special: tuple[str, ...]
    end: str
    """Ends a turn of the assistant."""
    bos: str | None = None
    eos: str | None = None
    """`end` if it is None."""
    said: Callable[[str], str] = str
    """What becomes of the words of an answer that is not the last."""
    said_last: Callable[[str], str] | None = None
    """What becomes of the last answer's; as of the others if None."""
    spaces_are_words: bool = False
    """A tokenizer in the way of sentencepiece, with spaces inside of words."""
    swallows: bool = False
    """Special tokens take the blanks after them."""
    tools: bool = False
    system: bool = True

    @property
    def template(self) -> str:
        return (Path(__file__).parent / "templates" / f"{self.name}.jinja").read_text()

    def answer(self, content: str, *, last: bool) -> str:
        """What the tokens that the model writes in a turn stand for."""
        said = self.said_last if last and self.said_last else self.said
        return said(content) + self.end + ("\n" if self.swallows else "")


def thought_then_said(content: str) -> str:
    """As Qwen 3 shows the last answer, whose generation prompt leaves the block of thoughts to the model."""
    thought, _, said = content.rpartition("</think>")
    return "<think>\n" + thought.split("<think>")[-1].strip("\n") + "\n</think>\n\n" + said.lstrip("\n")


def only_said(content: str) -> str:
    return content.split("</think>")[-1].lstrip("\n") if "</think>" in content else content


# Qwen 3 and DeepSeek have them as tokens that are no special ones: they stay in what is decoded without those.
PLAIN_TOKENS = ("<think>", "</think>")
CHATML_TOKENS = ("<|im_start|>", "<|im_end|>")
STYLES = [
    Style("chatml", CHATML_TOKENS, "<|im_end|>"),
    Style("marked", CHATML_TOKENS, "<|im_end|>"),
    Style(
        "llama3",
        (
            "<|begin_of_text|>",
            "<|start_header_id|>",
            "<|end_header_id|>",
            "<|eot_id|>",
            "<|eom_id|>",
            "<|python_tag|>",
        ),
        "<|eot_id|>",
        bos="<|begin_of_text|>",
        said=str.strip,
        tools=True,
    ),
    Style(
        "mistral",
        ("<s>", "</s>"),
        "</s>",
        bos="<s>",
        said=lambda text: " " + text.strip(),
        spaces_are_words=True,
    ),
    Style(
        "gemma",
        ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"),
        "<end_of_turn>",
        bos="<bos>",
        eos="<eos>",
        said=str.strip,
        spaces_are_words=True,
    ),
    Style(
        "phi3",
        ("<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
        "<|end|>",
        eos="<|endoftext|>",
        spaces_are_words=True,
        swallows=True,
    ),
    Style(
        "phi4",
        ("<|im_start|>", "<|im_sep|>", "<|im_end|>", "<|endoftext|>"),
        "<|im_end|>",
        eos="<|endoftext|>",
    ),
    Style(
        "granite",
        ("<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>", "<|tool_call|>"),
        "<|end_of_text|>",
        tools=True,
    ),
    Style(
        "qwen3",
        (*CHATML_TOKENS, "<|endoftext|>", "<think>", "</think>", "<tool_call>", "</tool_call>"),
        "<|im_end|>",
        eos="<|endoftext|>",
        said=only_said,
        said_last=thought_then_said,
        tools=True,
    ),
    Style("zephyr", ("<s>", "</s>"), "</s>", bos="<s>", spaces_are_words=True),
    Style(
        "r1",
        (
            "<|begin|>",
            "<|end|>",
            "<|User|>",
            "<|Assistant|>",
            "<think>",
            "</think>",
            "<|call|>",
            "<|call_end|>",
        ),
        "<|end|>",
        bos="<|begin|>",
        said=lambda text: text.split("</think>")[-1],
        tools=True,
    ),
]
BY_NAME = {style.name: style for style in STYLES}


def save_style(directory: Path, style: Style, template: str | None = None) -> Path:
    """A model directory with the style's tokenizer, and its template or another; returns it."""
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer = _spm(style) if style.spaces_are_words else _byte_level()
    for text in style.special:
        if text in PLAIN_TOKENS:
            tokenizer.add_tokens([AddedToken(text, normalized=False, special=False)])
        else:
            tokenizer.add_special_tokens(
                [AddedToken(text, rstrip=style.swallows, normalized=False, special=True)]
            )
    if style.bos:
        tokenizer.post_processor = TemplateProcessing(
            single=f"{style.bos} $A", special_tokens=[(style.bos, tokenizer.token_to_id(style.bos))]
        )
    tokenizer.save(str(directory / "tokenizer.json"))
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": style.bos,
        "eos_token": style.eos or style.end,
        "chat_template": style.template if template is None else template,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    (directory / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return directory


def _byte_level() -> Tokenizer:
    """As GPT-2, Llama 3 and Qwen have it."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(vocab_size=400, initial_alphabet=ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def _spm(style: Style) -> Tokenizer:
    """As Llama 2, Gemma and Phi-3 have it: bytes only of what has no token."""
    tokenizer = Tokenizer(BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    steps: list[normalizers.Normalizer] = [normalizers.Replace(" ", "▁")]
    if style.name != "gemma":
        steps.insert(0, normalizers.Prepend("▁"))
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = BpeTrainer(vocab_size=700, special_tokens=["<unk>", *bytes_], show_progress=False)
    # Words are learned from words, as theirs were; text is not split before it is tokenized.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("\n", "isolated"), pre_tokenizers.Metaspace()]
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.pre_tokenizer = None
    return tokenizer
