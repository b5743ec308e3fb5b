"""The chat template: a question and an answer as text and as token ids, and the labels for training.

`dataset_preparation.py` renders the text once and stores it with each record as `formatted_prompt` and `formatted_chat`. Training and
evaluation encode this stored text with the functions below, so both see the same prompt. This module does not import torch.
"""

from __future__ import annotations

import datetime
import functools
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from meerkat_workbench.core.errors import UserError, one_line
from meerkat_workbench.tuning import model_folders

THINK, END_OF_THINKING = "<think>", "</think>"  # around the reasoning before an answer
OPENED_THINKING = re.compile(rf"(?P<before>\s*){THINK}\s*\Z")
PROBE_QUESTION, PROBE_ANSWER = "Probe question?", "Probe answer."
# tokens of chat templates: Llama and ChatML, DeepSeek (with full-width bars), Gemma, Mistral
SPECIAL_TOKEN = re.compile(r"<[|｜][^|｜<>\s]{1,60}[|｜]>|</?s>|<(?:pad|eos|bos|unk)>|<(?:start|end)_of_turn>|\[/?INST\]")
LLAMA3_TOKENS = frozenset(
    [f"<|{name}|>" for name in ("begin_of_text", "end_of_text", "finetune_right_pad_id", "start_header_id", "end_header_id", "eom_id",
                                "eot_id", "python_tag", "image")]
    + [f"<|reserved_special_token_{number}|>" for number in range(248)]
)  # fmt: skip


@dataclass(frozen=True)
class ControlTokens:
    """Control tokens of the tokenizer in use, which a question or an answer must not contain.

    Tokens of other tokenizers are allowed: to most of them an HTML `<s>` is plain text.
    """

    tokens: frozenset[str] = frozenset()

    @functools.cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile("|".join(re.escape(token) for token in sorted(self.tokens, key=len, reverse=True)))

    def in_text(self, text: str) -> str | None:
        """The first control token in a text, or None."""
        match = self._pattern.search(text) if self.tokens else None
        return match.group() if match else None

    @classmethod
    def of_tokenizer(cls, tokenizer: Any) -> ControlTokens:
        """The control tokens of a Hugging Face tokenizer."""
        added = getattr(tokenizer, "added_tokens_decoder", {}).values()
        return cls(frozenset(map(str, tokenizer.all_special_tokens)) | {token.content for token in added if token.special})

    @classmethod
    def of_format(cls, chat_format: ChatFormat, source: Path | None) -> ControlTokens:
        """The control tokens that are known before a model is chosen: those in the format's text and in the tokenizer's files.

        Args:
            source: the tokenizer's folder or the template's file; None for a template of this project.
        """
        tokens = set(SPECIAL_TOKEN.findall(chat_format.conversation("question", "answer")))
        if tokens & LLAMA3_TOKENS:
            tokens |= LLAMA3_TOKENS
        return cls(frozenset(tokens | (_special_tokens_of(source) if source is not None and source.is_dir() else set())))


def _special_tokens_of(folder: Path) -> set[str]:
    """Special tokens listed in a tokenizer's files. Unreadable files are skipped here and reported when the tokenizer is loaded."""
    tokens: set[str] = set()
    for name in ("tokenizer.json", model_folders.TOKENIZER_CONFIG):
        try:
            value = json.loads((folder / name).read_text(encoding="utf-8-sig"))
        except (OSError, ValueError):
            continue
        listed = (
            [*value.get("added_tokens", []), *value.get("added_tokens_decoder", {}).values()] if isinstance(value, dict) else []
        )
        tokens |= {
            token["content"] for token in listed if isinstance(token, dict) and token.get("special") and token.get("content")
        }
    return tokens


class Tokenizer(Protocol):
    """The part of a Hugging Face tokenizer that this module uses."""

    bos_token_id: Any
    eos_token_id: Any
    unk_token_id: Any
    all_special_ids: Any
    all_special_tokens: Any

    def __call__(self, text: str, *, add_special_tokens: bool) -> Any: ...

    def convert_tokens_to_ids(self, tokens: str) -> Any: ...

    def decode(self, token_ids: Any, *, skip_special_tokens: bool) -> Any: ...


class Encoded(NamedTuple):
    """Token ids of a conversation; the first `prompt_length` of them are the prompt."""

    input_ids: list[int]
    prompt_length: int

    @property
    def labels(self) -> list[int]:
        """-100 for each token of the prompt, then the ids of the answer and its end-of-turn token."""
        return [-100] * self.prompt_length + self.input_ids[self.prompt_length :]


def render_llama3(question: str, answer: str | None, system_message: str) -> str:
    """Llama-3's instruct format (Meta, llama3/llama/tokenizer.py `ChatFormat`).

    With `answer=None` the text ends where the assistant's answer begins; otherwise it ends in the `<|eot_id|>` of the answer.
    """
    system = f"<|start_header_id|>system<|end_header_id|>\n\n{system_message}<|eot_id|>" if system_message else ""
    prompt = (
        f"<|begin_of_text|>{system}<|start_header_id|>user<|end_header_id|>\n\n{question}<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    return prompt if answer is None else f"{prompt}{answer}<|eot_id|>"


def messages(question: str, answer: str | None, system_message: str) -> list[dict[str, str]]:
    """The conversation as a list of messages with role and content, as TRL and chat servers read it."""
    turns = [{"role": "system", "content": system_message}] if system_message else []
    turns.append({"role": "user", "content": question})
    return turns if answer is None else [*turns, {"role": "assistant", "content": answer}]


def render_plain(question: str, answer: str | None, system_message: str) -> str:
    """Question and answer without control tokens, for encoder-decoder models; same contract as `render_llama3`."""
    prompt = f"{system_message}\n\n{question}\n\n" if system_message else f"{question}\n\n"
    return prompt if answer is None else prompt + answer


class JinjaTemplate:
    """A Hugging Face chat template, rendered as transformers renders it.

    It is rendered by sandboxed Jinja with `break`, `continue` and `generation` blocks, `strftime_now`, `raise_exception`, and a `tojson`
    that does not escape HTML (as in transformers/utils/chat_template_utils.py, but without loading torch).

    Args:
        text: the template.
        tokens: the special tokens that the template may refer to by name, such as bos_token.
        source: the template's origin, for error messages.
        today: the date that `strftime_now` returns; by default the current date.

    Raises:
        UserError: the text is not a valid template. `render` raises it if rendering fails or the template refuses a conversation.
    """

    def __init__(self, text: str, tokens: Mapping[str, str], source: str, today: datetime.datetime | None = None) -> None:
        import jinja2
        from jinja2.ext import Extension, loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        class Generation(Extension):
            """`{% generation %}…{% endgeneration %}` marks the assistant's words for loss masks; here only its content is rendered."""

            tags = {"generation"}

            def parse(self, parser: Any) -> Any:
                line = next(parser.stream).lineno
                body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
                return jinja2.nodes.Scope(body).set_lineno(line)

        def refuse(message: str) -> None:
            remedy = "Some templates refuse a system message: set SYSTEM_MESSAGE to empty, or name another template."
            raise UserError(f"the chat template refuses this conversation ({message})", where=source, remedy=remedy)

        def as_json(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
            return json.dumps(value, ensure_ascii=ensure_ascii, **options)

        def now(date_format: str) -> str:
            return (today or datetime.datetime.now()).strftime(date_format)

        self.tokens, self.source = dict(tokens), source
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
        environment.filters["tojson"] = as_json
        environment.globals |= {"raise_exception": refuse, "strftime_now": now}
        try:
            self.template = environment.from_string(text)
        except jinja2.TemplateError as error:
            line = getattr(error, "lineno", None)
            where = f"{source}, line {line}" if line else source
            fault = f"is not a chat template that can be read: {one_line(error)}"
            raise UserError(fault, where=where, remedy="Correct it, or name another one.") from error

    @classmethod
    def read(cls, source: Path, today: datetime.datetime | None = None) -> JinjaTemplate:
        """The template in a `.jinja` file, or in a tokenizer's folder together with its special tokens."""
        text, tokens = _read_template(source)
        return cls(text, tokens, f"CHAT_TEMPLATE={source}", today)

    def render(self, question: str, answer: str | None, system_message: str) -> str:
        """Same contract as `render_llama3`."""
        try:
            return self.template.render(
                messages=messages(question, answer, system_message), add_generation_prompt=answer is None, **self.tokens
            )
        except UserError:
            raise
        except Exception as error:  # a template is a program and can fail in any way
            fault = f"the chat template fails on a conversation: {one_line(error)}"
            raise UserError(fault, where=self.source, remedy="Correct it, or name another one.") from error


def _read_template(source: Path) -> tuple[str, dict[str, str]]:
    """The text of the template in a file or a tokenizer's folder, and the special tokens that it may refer to by name."""
    where = f"CHAT_TEMPLATE={source}"
    try:
        if source.is_file():
            return source.read_text(encoding="utf-8-sig"), {"bos_token": "", "eos_token": ""}
        config_path, jinja = source / model_folders.TOKENIZER_CONFIG, source / "chat_template.jinja"
        if not config_path.is_file():
            remedy = "Name a .jinja file, a tokenizer's folder, llama3, smollm2 or plain."
            raise UserError("is neither a Jinja file nor a folder with tokenizer_config.json", where=where, remedy=remedy)
        config = json.loads(config_path.read_text(encoding="utf-8-sig"))
        text = jinja.read_text(encoding="utf-8-sig") if jinja.is_file() else config.get("chat_template")
    except (UnicodeDecodeError, json.JSONDecodeError, AttributeError) as error:
        fault = f"its template or tokenizer_config.json cannot be read: {one_line(error)}"
        raise UserError(fault, where=where, remedy="Download the files again.") from error
    if not isinstance(text, str):
        raise UserError("its tokenizer has no single chat template", where=where, remedy="Name a .jinja file.")
    tokens = {}
    for name in ("bos_token", "eos_token", "unk_token", "pad_token"):
        value = config.get(name) or ""
        tokens[name] = str(value["content"] if isinstance(value, dict) else value)
    return text, tokens


def tokens_after_an_answer(template: str, named: Mapping[str, str], known: Iterable[str]) -> set[str]:
    """The `known` tokens that a chat template writes after an answer, to end the turn; empty if the template cannot be rendered.

    Args:
        named: the special tokens that the template may refer to by name.
    """
    try:
        rendered = JinjaTemplate(template, named, "chat template").render(PROBE_QUESTION, PROBE_ANSWER, "")
    except UserError:
        return set()
    _, answer, after = rendered.rpartition(PROBE_ANSWER)
    return {token for token in known if answer and token in after}


# renders a question, an answer (None: the text ends where the answer begins) and a system message
Template = Callable[[str, str | None, str], str]


@dataclass(frozen=True)
class ChatFormat:
    """A template with its system message, and the differences between its prompts and its conversations.

    Args:
        probe: the rendering of a fixed probe conversation, which identifies the format.
        dropped: the end of the template's prompts that is missing from its conversations: an opened thinking block for the model to fill.
        inserted: text between prompt and answer, such as an empty thinking block. It is no part of the answer, so models get it at the
            end of the prompt.
    """

    template: Template
    system_message: str
    probe: str
    dropped: str = ""
    inserted: str = ""

    @classmethod
    def of(cls, template: Template, system_message: str) -> ChatFormat:
        """The format of a template, found by rendering a probe conversation.

        Raises:
            UserError: the template fails or loses the question or the answer, or its conversation does not begin with its prompt.
        """
        try:
            prompt = template(PROBE_QUESTION, None, system_message)
            conversation = template(PROBE_QUESTION, PROBE_ANSWER, system_message)
        except UserError:
            raise
        except Exception as error:
            fault = f"fails on answer=None or on a text: {type(error).__name__}: {error}"
            raise UserError(
                fault, where="apply_chat_template", remedy="Correct the function in dataset_preparation.py."
            ) from error
        opened = OPENED_THINKING.search(prompt)
        ends = [len(prompt), *([opened.end("before"), opened.start()] if opened else [])]
        kept = next((prompt[:end] for end in ends if conversation.startswith(prompt[:end])), None)
        inserted, answer, _ = conversation[len(kept or "") :].partition(PROBE_ANSWER)
        if kept is None or PROBE_QUESTION not in prompt or PROBE_ANSWER in prompt or not answer:
            raise UserError(
                "must return the prompt for answer=None, and for an answer the same prompt followed by it, "
                f"but returned {prompt!r} and {conversation!r}",
                where="apply_chat_template",
                remedy="Correct the function in dataset_preparation.py.",
            )
        dropped = prompt[len(kept) :]
        # formats without a thinking block keep the probe, and so the hash, of versions that did not look for such blocks
        probe = f"{conversation}\0{kept}{inserted}" if dropped or inserted else conversation
        return cls(template, system_message, probe, dropped, inserted)

    def prompt(self, question: str) -> str:
        """The text that a model gets as its prompt; it ends where the answer begins."""
        return self.template(question, None, self.system_message).removesuffix(self.dropped) + self.inserted

    def conversation(self, question: str, answer: str) -> str:
        """Prompt, answer and the end of the turn."""
        return self.template(question, answer, self.system_message)

    def note(self) -> str:
        """A one-line description of an unusual prompt; empty for a usual one."""
        peculiarities = [f"opens {self.dropped.strip()!r} for the model to fill, which is left out"] if self.dropped else []
        if self.inserted:
            peculiarities.append(f"writes {self.inserted!r} before each answer, which is given with the prompt")
        return f"the chat template {', and '.join(peculiarities)}: it is neither trained on nor scored" if peculiarities else ""


def encode(tokenizer: Tokenizer, formatted_prompt: str, formatted_chat: str) -> Encoded:
    """Token ids of a stored conversation.

    Prompt and answer are encoded separately, so that training sees exactly the prompt ids that generation starts from. No special tokens
    are added, since the text has its own `<|begin_of_text|>`.

    Raises:
        UserError: the stored chat does not begin with the stored prompt.
    """
    if not formatted_chat.startswith(formatted_prompt):
        raise UserError(
            "a stored formatted_chat does not begin with its formatted_prompt",
            remedy="Correct apply_chat_template in dataset_preparation.py and prepare the data again.",
        )
    prompt = encode_prompt(tokenizer, formatted_prompt)
    answer = encode_text(tokenizer, formatted_chat[len(formatted_prompt) :])
    return Encoded([*prompt, *answer], len(prompt))


def encode_prompt(tokenizer: Tokenizer, formatted_prompt: str) -> list[int]:
    """Token ids of a stored prompt, without added special tokens."""
    return encode_text(tokenizer, formatted_prompt)


def encode_source(tokenizer: Tokenizer, text: str) -> list[int]:
    """Token ids of the source or the target of an encoder-decoder model, with the tokenizer's end token."""
    return [*encode_text(tokenizer, text), tokenizer.eos_token_id]


def encode_text(tokenizer: Tokenizer, text: str) -> list[int]:
    """Token ids of an answer or another text, without special tokens."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def decode_answer(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """The text of generated ids without control tokens, except that the marks of a thinking block are always kept."""
    special = set(tokenizer.all_special_ids)
    id_of_mark = {mark: tokenizer.convert_tokens_to_ids(mark) for mark in (THINK, END_OF_THINKING)}
    marks = {token: mark for mark, token in id_of_mark.items() if token in special and token != tokenizer.unk_token_id}
    parts: list[str] = []
    piece: list[int] = []
    for token in ids:
        if token in marks:
            parts += [tokenizer.decode(piece, skip_special_tokens=True), marks[token]]
            piece = []
        else:
            piece.append(token)
    return "".join([*parts, tokenizer.decode(piece, skip_special_tokens=True)]).strip()


def turn_terminator(formatted_prompt: str, formatted_chat: str, answer: str) -> str:
    """The text that the template writes after the answer to end the turn: `<|eot_id|>` for Llama-3."""
    return formatted_chat[len(formatted_prompt) :].removeprefix(answer)


class StoredChat(Protocol):
    """The part of a prepared record that this module reads."""

    @property
    def name(self) -> str: ...

    @property
    def question(self) -> str: ...

    @property
    def response(self) -> str: ...

    @property
    def formatted_chat(self) -> str: ...


def check_texts(records: Iterable[StoredChat], tokenizer: Any, model_name: str) -> None:
    """UserError if a question or an answer contains a control token of this tokenizer."""
    control = ControlTokens.of_tokenizer(tokenizer)
    for record in records:
        for name, text in (("question", record.question), ("answer", record.response)):
            if token := control.in_text(text):
                raise UserError(
                    f"the {name} ({text[:40]!r} …) holds {token}, a control token of this model's tokenizer",
                    where=model_name,
                    item=record.name,
                    remedy="Remove it from the specialty file and prepare the data again.",
                )


def check_tokenizer(tokenizer: Tokenizer, record: StoredChat, model_name: str) -> None:
    """UserError if a special token of the stored template is not a single id of the tokenizer.

    Args:
        record: a prepared record. Special tokens in its question or answer are text and no part of the template.
    """
    in_texts = SPECIAL_TOKEN.findall(record.question) + SPECIAL_TOKEN.findall(record.response)
    for token in sorted(set(SPECIAL_TOKEN.findall(record.formatted_chat)) - set(in_texts)):
        ids = tokenizer(token, add_special_tokens=False)["input_ids"]
        if len(ids) != 1:
            raise UserError(
                f"its tokenizer splits {token}, which the prepared data uses, into {len(ids)} pieces",
                where=model_name,
                remedy=f"Prepare the data again with CHAT_TEMPLATE={model_name}.",
            )
