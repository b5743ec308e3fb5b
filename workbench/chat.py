"""The one chat template: a question and an answer as text, as token ids, and the mask of what is learnt.

The text is rendered once, by `dataset_preparation.py`, and stored with each record as `formatted_prompt` and
`formatted_chat`. Training and evaluation turn that stored text into ids with the functions below, so both see the
same prompt. This module imports no torch.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from workbench.errors import UserError

SPECIAL_TOKEN = re.compile(r"<\|[^|<>\s]{1,60}\|>|</?s>|<(?:pad|eos|bos|unk)>|<(?:start|end)_of_turn>")


class Tokenizer(Protocol):
    """What this module needs of a Hugging Face tokenizer."""

    def __call__(self, text: str, *, add_special_tokens: bool) -> Any: ...

    def convert_tokens_to_ids(self, tokens: str) -> int | None: ...


class Encoded(NamedTuple):
    """Token ids of a conversation and how many of them, from the front, are the prompt."""

    input_ids: list[int]
    prompt_length: int

    @property
    def labels(self) -> list[int]:
        """Ids where the answer stands, its end-of-turn token included, and -100 over the prompt."""
        return [-100] * self.prompt_length + self.input_ids[self.prompt_length :]


def render_llama3(question: str, answer: str | None, system_message: str) -> str:
    """Llama-3's instruct format (Meta, llama3/llama/tokenizer.py `ChatFormat`).

    With `answer=None` the text ends where the assistant is to speak; otherwise it ends in the turn's `<|eot_id|>`.
    """
    system = f"<|start_header_id|>system<|end_header_id|>\n\n{system_message}<|eot_id|>" if system_message else ""
    prompt = (
        f"<|begin_of_text|>{system}<|start_header_id|>user<|end_header_id|>\n\n{question}<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    return prompt if answer is None else f"{prompt}{answer}<|eot_id|>"


def messages(question: str, answer: str | None, system_message: str) -> list[dict[str, str]]:
    """The conversation as the list of role and content that TRL and chat servers read."""
    turns = [{"role": "system", "content": system_message}] if system_message else []
    turns.append({"role": "user", "content": question})
    return turns if answer is None else [*turns, {"role": "assistant", "content": answer}]


def render_plain(question: str, answer: str | None, system_message: str) -> str:
    """Question and answer without control tokens, for encoder-decoder models; same contract as `render_llama3`."""
    prompt = f"{system_message}\n\n{question}\n\n" if system_message else f"{question}\n\n"
    return prompt if answer is None else prompt + answer


class JinjaTemplate:
    """A chat template from a `.jinja` file or a tokenizer's folder, rendered as transformers renders it."""

    def __init__(self, source: Path) -> None:
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        def raise_exception(message: str) -> None:
            raise UserError(f"{source}: the chat template refuses this conversation ({message}).")

        text, self.tokens = _read_template(source)
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = raise_exception
        self.template = environment.from_string(text)

    def render(self, question: str, answer: str | None, system_message: str) -> str:
        """Same contract as `render_llama3`."""
        return self.template.render(
            messages=messages(question, answer, system_message), add_generation_prompt=answer is None, **self.tokens
        )


def _read_template(source: Path) -> tuple[str, dict[str, str]]:
    """The template's text, and the special tokens it may name, from a file or a tokenizer's folder."""
    if source.is_file():
        return source.read_text(encoding="utf-8"), {"bos_token": "", "eos_token": ""}
    config_path = source / "tokenizer_config.json"
    if not config_path.is_file():
        raise UserError(f"CHAT_TEMPLATE={source}: is neither a Jinja file nor a folder with tokenizer_config.json.")
    config = json.loads(config_path.read_text(encoding="utf-8"))
    jinja = source / "chat_template.jinja"
    text = jinja.read_text(encoding="utf-8") if jinja.is_file() else config.get("chat_template")
    if not isinstance(text, str):
        raise UserError(f"CHAT_TEMPLATE={source}: its tokenizer has no single chat template. Name a .jinja file.")
    tokens = {}
    for name in ("bos_token", "eos_token"):
        value = config.get(name) or ""
        tokens[name] = value["content"] if isinstance(value, dict) else value
    return text, tokens


def encode(tokenizer: Tokenizer, formatted_prompt: str, formatted_chat: str) -> Encoded:
    """Ids of a stored conversation: those of the prompt, then those of the answer.

    Prompt and answer are turned into ids apart, so that training sees exactly the prompt ids that generation is
    given; nothing is added (the text has its own `<|begin_of_text|>`).

    Raises:
        UserError: the stored chat does not begin with the stored prompt.
    """
    if not formatted_chat.startswith(formatted_prompt):
        raise UserError(
            "a stored formatted_chat does not begin with its formatted_prompt. "
            "Mend apply_chat_template in dataset_preparation.py and prepare the data again."
        )
    prompt = encode_prompt(tokenizer, formatted_prompt)
    answer = tokenizer(formatted_chat[len(formatted_prompt) :], add_special_tokens=False)["input_ids"]
    return Encoded([*prompt, *answer], len(prompt))


def encode_prompt(tokenizer: Tokenizer, formatted_prompt: str) -> list[int]:
    """Ids of a stored prompt, with no special token added."""
    return list(tokenizer(formatted_prompt, add_special_tokens=False)["input_ids"])


def encode_source(tokenizer: Any, text: str) -> list[int]:
    """Ids of one side of an encoder-decoder's example, which ends in the tokenizer's end token."""
    ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    return [*ids, tokenizer.eos_token_id]


def turn_terminator(formatted_prompt: str, formatted_chat: str, answer: str) -> str:
    """The text that ends a turn: what the template puts behind the answer, `<|eot_id|>` for Llama-3."""
    return formatted_chat[len(formatted_prompt) :].removeprefix(answer)


def check_tokenizer(tokenizer: Tokenizer, formatted_chat: str, model_name: str) -> None:
    """Refuse a tokenizer that does not know the special tokens of the stored template as single ids."""
    for token in sorted(set(SPECIAL_TOKEN.findall(formatted_chat))):
        ids = tokenizer(token, add_special_tokens=False)["input_ids"]
        if len(ids) != 1:
            raise UserError(
                f"{model_name}: its tokenizer splits {token}, which the prepared data uses, into {len(ids)} pieces. "
                f"Prepare the data for this model: python dataset_preparation.py CHAT_TEMPLATE={model_name} …"
            )
