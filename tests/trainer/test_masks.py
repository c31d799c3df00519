"""What loss is taken on, with real tokenizers and the templates of four families."""

import json
from pathlib import Path

import pytest

from finetune_trainer.errors import InvalidConfigurationError
from finetune_trainer.prepare.encode import MASKED
from finetune_trainer.prepare.render import Message, render
from finetune_trainer.prepare.tokenizer import ChatTokenizer
from tiny import CHATML, SPECIAL, save_tokenizer

# Each as its family writes it, abridged: how turns are told apart is what differs.
LLAMA3 = (
    "{{ '<|begin|>' }}{% for m in messages %}<|header|>{{ m.role }}<|header_end|>\n\n{{ m.content | trim }}<|eot|>"
    "{% endfor %}{% if add_generation_prompt %}<|header|>assistant<|header_end|>\n\n{% endif %}"
)
MISTRAL = (
    "<s>{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content }}</s>"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
GEMMA = (
    "<bos>{% for m in messages %}<turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}"
    "<turn_end>\n{% endfor %}{% if add_generation_prompt %}<turn>model\n{% endif %}"
)
# Shows reasoning for the last answer alone, in marks of its own.
QWEN3 = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
    "{% set parts = m.content.split('</think>') %}"
    "{% if loop.last %}<think>\n{{ parts[0].replace('<think>', '').strip() if parts|length > 1 else '' }}\n</think>\n\n"
    "{% endif %}{{ parts[-1].strip() }}{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
)
TEMPLATES = {
    "chatml": (CHATML, SPECIAL),
    "llama3": (LLAMA3, ("<pad>", "<|begin|>", "<|header|>", "<|header_end|>", "<|eot|>")),
    "mistral": (MISTRAL, ("<pad>", "<s>", "</s>")),
    "gemma": (GEMMA, ("<pad>", "<bos>", "<turn>", "<turn_end>")),
    "qwen3": (QWEN3, SPECIAL),
}
TURNS = [
    {"role": "user", "content": "Où est-ce? 你好"},
    {"role": "assistant", "content": "Là-bas — 那边 🙂"},
    {"role": "user", "content": "assistant\nyes"},
    {"role": "assistant", "content": "yes"},
]


@pytest.fixture
def chat(request: pytest.FixtureRequest, tmp_path: Path) -> ChatTokenizer:
    template, special = TEMPLATES[request.param]
    # Like the real ones, it begins plain text with a special token; templates write their own.
    save_tokenizer(tmp_path, template, special, prefix=special[1])
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return ChatTokenizer(tmp_path)


def learned(chat: ChatTokenizer, messages: list[Message]) -> str:
    """The text that loss is taken on."""
    [encoded] = chat.encode([render(messages, chat.template)])
    plain = chat.tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
    assert list(encoded.input_ids) == list(plain), "training sees what inference sees"
    return str(chat.tokenizer.decode([label for label in encoded.labels if label != MASKED]))


@pytest.mark.parametrize(
    ("chat", "end"),
    [("chatml", "<|im_end|>"), ("llama3", "<|eot|>"), ("mistral", "</s>"), ("gemma", "<turn_end>")],
    indirect=["chat"],
)
def test_every_answer_and_its_end_of_turn_token(chat: ChatTokenizer, end: str) -> None:
    assert learned(chat, TURNS) == f"Là-bas — 那边 🙂{end}yes{end}"


@pytest.mark.parametrize("chat", ["qwen3"], indirect=True)
def test_reasoning_is_learned_where_it_is_shown(chat: ChatTokenizer) -> None:
    messages = [
        {"role": "user", "content": "1+1?"},
        {"role": "assistant", "content": "<think>easy</think>2"},
        {"role": "user", "content": "2+2?"},
        {"role": "assistant", "content": "<think>harder</think>4"},
    ]
    assert learned(chat, messages) == "2<|im_end|>harder\n</think>\n\n4<|im_end|>"
    assert learned(chat, TURNS[:2]) == "Là-bas — 那边 🙂<|im_end|>"


def save_template(directory: Path, template: str) -> Path:
    save_tokenizer(directory, template)
    (directory / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return directory


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("", "the tokenizer has no chat template"),
        ("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}", "has no special token"),
        ("{{ messages[0].content }}", "shows an answer 0 times"),
        ("{{ raise_exception('no chat here') }}", "no chat here"),
    ],
)
def test_a_template_that_cannot_be_used_is_an_error_of_the_model(
    tmp_path: Path, template: str, said: str
) -> None:
    with pytest.raises(InvalidConfigurationError, match=said) as caught:
        ChatTokenizer(save_template(tmp_path, template))
    assert str(caught.value).startswith("spec.model: ")
