"""The one chat template: a question and an answer as text, as token ids, and the mask of what is learnt.

The text is rendered once, by `dataset_preparation.py`, and stored with each record as `formatted_prompt` and
`formatted_chat`. Training and evaluation turn that stored text into ids with the functions below, so both see the
same prompt. This module imports no torch.
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

from meerkat_workbench.core.errors import UserError

THINK, END_OF_THINKING = "<think>", "</think>"  # around what a reasoning model writes before its answer
# what chat templates write around the turns: Llama's and ChatML's, DeepSeek's with wide strokes, Gemma's, Mistral's
SPECIAL_TOKEN = re.compile(r"<[|｜][^|｜<>\s]{1,60}[|｜]>|</?s>|<(?:pad|eos|bos|unk)>|<(?:start|end)_of_turn>|\[/?INST\]")
LLAMA3_TOKENS = frozenset(
    [f"<|{name}|>" for name in ("begin_of_text", "end_of_text", "finetune_right_pad_id", "start_header_id", "end_header_id", "eom_id",
                                "eot_id", "python_tag", "image")]
    + [f"<|reserved_special_token_{number}|>" for number in range(248)]
)  # fmt: skip


@dataclass(frozen=True)
class ControlTokens:
    """Tokens that steer a model and may not stand in a question or an answer: those of the tokenizer in use, and no others.

    To another tokenizer an HTML `<s>` is text.
    """

    tokens: frozenset[str] = frozenset()

    @functools.cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile("|".join(re.escape(token) for token in sorted(self.tokens, key=len, reverse=True)))

    def in_text(self, text: str) -> str | None:
        """The first that stands in a text."""
        found = self._pattern.search(text) if self.tokens else None
        return found.group() if found else None

    @classmethod
    def of_tokenizer(cls, tokenizer: Any) -> ControlTokens:
        """Those of a Hugging Face tokenizer."""
        added = getattr(tokenizer, "added_tokens_decoder", {}).values()
        return cls(frozenset(map(str, tokenizer.all_special_tokens)) | {token.content for token in added if token.special})

    @classmethod
    def of_format(cls, chat_format: ChatFormat, source: Path | None) -> ControlTokens:
        """What is known before the model is: what the format writes, and what the tokenizer's files name.

        Args:
            source: the tokenizer's folder, or a template's file; None for a template of this project.
        """
        found = set(SPECIAL_TOKEN.findall(chat_format.conversation("question", "answer")))
        if found & LLAMA3_TOKENS:
            found |= LLAMA3_TOKENS
        return cls(frozenset(found | (_special_tokens_of(source) if source is not None and source.is_dir() else set())))


def _special_tokens_of(folder: Path) -> set[str]:
    """Special tokens that a tokenizer's files name; those that cannot be read name none here, and are refused where they are loaded."""
    found: set[str] = set()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        try:
            value = json.loads((folder / name).read_text(encoding="utf-8-sig"))
        except (OSError, ValueError):
            continue
        listed = (
            [*value.get("added_tokens", []), *value.get("added_tokens_decoder", {}).values()] if isinstance(value, dict) else []
        )
        found |= {
            token["content"] for token in listed if isinstance(token, dict) and token.get("special") and token.get("content")
        }
    return found


class Tokenizer(Protocol):
    """What this module needs of a Hugging Face tokenizer."""

    bos_token_id: Any
    eos_token_id: Any
    unk_token_id: Any
    all_special_ids: Any
    all_special_tokens: Any

    def __call__(self, text: str, *, add_special_tokens: bool) -> Any: ...

    def convert_tokens_to_ids(self, tokens: str) -> Any: ...

    def decode(self, token_ids: Any, *, skip_special_tokens: bool) -> Any: ...


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
    """A chat template of Hugging Face's kind, rendered as transformers renders it.

    That is Jinja in a sandbox with `break`, `continue` and `generation` blocks, `strftime_now`, `raise_exception`, and a `tojson` that
    escapes nothing (transformers/utils/chat_template_utils.py; here without loading torch).

    Args:
        text: the template.
        tokens: what it may name, such as bos_token.
        source: where it is from, for errors.
        today: the day that `strftime_now` tells; by default the present one.

    Raises:
        UserError: the text is no template; rendering it fails, or the template itself refuses a conversation.
    """

    def __init__(self, text: str, tokens: Mapping[str, str], source: str, today: datetime.datetime | None = None) -> None:
        import jinja2
        from jinja2.ext import Extension, loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        class Generation(Extension):
            """`{% generation %}…{% endgeneration %}` marks the assistant's words for those who make masks; it renders what it holds."""

            tags = {"generation"}

            def parse(self, parser: Any) -> Any:
                line = next(parser.stream).lineno
                body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
                return jinja2.nodes.Scope(body).set_lineno(line)

        def refuse(message: str) -> None:
            raise UserError(f"{source}: the chat template refuses this conversation ({message}).")

        def as_json(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
            return json.dumps(value, ensure_ascii=ensure_ascii, **options)

        def now(form: str) -> str:
            return (today or datetime.datetime.now()).strftime(form)

        self.tokens, self.source = dict(tokens), source
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
        environment.filters["tojson"] = as_json
        environment.globals |= {"raise_exception": refuse, "strftime_now": now}
        try:
            self.template = environment.from_string(text)
        except jinja2.TemplateError as error:
            line = getattr(error, "lineno", None)
            where = f"{source}, line {line}" if line else source
            raise UserError(
                f"{where}: is not a chat template that can be read: {_one_line(error)}. Mend it, or name another."
            ) from error

    @classmethod
    def read(cls, source: Path, today: datetime.datetime | None = None) -> JinjaTemplate:
        """The template in a `.jinja` file, or in a tokenizer's folder with the special tokens that it may name."""
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
        except Exception as error:  # a template runs code of its own, which may fail in any way
            raise UserError(
                f"{self.source}: the chat template fails on a conversation: {_one_line(error)}. Mend it, or name another."
            ) from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _read_template(source: Path) -> tuple[str, dict[str, str]]:
    """The template's text, and the special tokens it may name, from a file or a tokenizer's folder."""
    try:
        if source.is_file():
            return source.read_text(encoding="utf-8-sig"), {"bos_token": "", "eos_token": ""}
        config_path, jinja = source / "tokenizer_config.json", source / "chat_template.jinja"
        if not config_path.is_file():
            raise UserError(f"CHAT_TEMPLATE={source}: is neither a Jinja file nor a folder with tokenizer_config.json.")
        config = json.loads(config_path.read_text(encoding="utf-8-sig"))
        text = jinja.read_text(encoding="utf-8-sig") if jinja.is_file() else config.get("chat_template")
    except (UnicodeDecodeError, json.JSONDecodeError, AttributeError) as error:
        raise UserError(
            f"CHAT_TEMPLATE={source}: its template or tokenizer_config.json cannot be read: {_one_line(error)}. Fetch the files again."
        ) from error
    if not isinstance(text, str):
        raise UserError(f"CHAT_TEMPLATE={source}: its tokenizer has no single chat template. Name a .jinja file.")
    tokens = {}
    for name in ("bos_token", "eos_token", "unk_token", "pad_token"):
        value = config.get(name) or ""
        tokens[name] = str(value["content"] if isinstance(value, dict) else value)
    return text, tokens


def tokens_after_an_answer(template: str, named: Mapping[str, str], known: Iterable[str]) -> set[str]:
    """Which of the `known` tokens a chat template puts behind an answer: they end a turn. None where it cannot be rendered."""
    probe = "Probe answer."
    try:
        whole = JinjaTemplate(template, named, "chat template").render("Probe question?", probe, "")
    except UserError:
        return set()
    _, found, after = whole.rpartition(probe)
    return {token for token in known if found and token in after}


# Renders a question and an answer (None: up to where the assistant speaks) under a system message
Template = Callable[[str, str | None, str], str]
OPENED_THINKING = re.compile(rf"(?P<before>\s*){THINK}\s*\Z")


@dataclass(frozen=True)
class ChatFormat:
    """A template under a system message, and how it lays a conversation out.

    Args:
        probe: its rendering of a probe, by which one format is told from another.
        dropped: the end of its prompt that its conversations do not have: a thinking block, opened for the model to fill.
        inserted: what it writes between prompt and answer: an empty thinking block, say. That is no part of the answer, so models are
            given it as the end of the prompt.
    """

    template: Template
    system_message: str
    probe: str
    dropped: str = ""
    inserted: str = ""

    @classmethod
    def of(cls, template: Template, system_message: str) -> ChatFormat:
        """The format of a template, by its rendering of a probe.

        Raises:
            UserError: the template fails, loses the question or the answer, or gives a prompt that its conversation does not begin with.
        """
        question, answer = "Probe question?", "Probe answer."
        try:
            prompt, whole = template(question, None, system_message), template(question, answer, system_message)
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"apply_chat_template fails on answer=None or on a text: {type(error).__name__}: {error}") from error
        opened = OPENED_THINKING.search(prompt)
        ends = [len(prompt), *([opened.end("before"), opened.start()] if opened else [])]
        kept = next((prompt[:end] for end in ends if whole.startswith(prompt[:end])), None)
        inserted, found, _ = whole[len(kept or "") :].partition(answer)
        if kept is None or question not in prompt or answer in prompt or not found:
            raise UserError(
                "apply_chat_template must give the prompt for answer=None, and with an answer the same prompt followed by it. "
                f"It gave {prompt!r} and {whole!r}."
            )
        dropped = prompt[len(kept) :]
        # formats without such a block keep the probe, and so the hash, that they had before blocks were looked for
        probe = f"{whole}\0{kept}{inserted}" if dropped or inserted else whole
        return cls(template, system_message, probe, dropped, inserted)

    def prompt(self, question: str) -> str:
        """The text that a model is given, up to where the answer begins."""
        return self.template(question, None, self.system_message).removesuffix(self.dropped) + self.inserted

    def conversation(self, question: str, answer: str) -> str:
        """Prompt, answer, and whatever ends the turn."""
        return self.template(question, answer, self.system_message)

    def note(self) -> str:
        """What is unusual about the prompt, in one line; empty where nothing is."""
        said = [f"opens {self.dropped.strip()!r} for the model to fill, which is left out"] if self.dropped else []
        if self.inserted:
            said.append(f"writes {self.inserted!r} before each answer, which is given with the prompt")
        return f"the chat template {', and '.join(said)}: it is neither learnt nor scored" if said else ""


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


def encode_source(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of one side of an encoder-decoder's example, which ends in the tokenizer's end token."""
    ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    return [*ids, tokenizer.eos_token_id]


def decode_answer(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """The text of generated ids without control tokens; the marks of a thinking block stay, also where they are such tokens."""
    special = set(tokenizer.all_special_ids)
    found = {mark: tokenizer.convert_tokens_to_ids(mark) for mark in (THINK, END_OF_THINKING)}
    marks = {token: mark for mark, token in found.items() if token in special and token != tokenizer.unk_token_id}
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
    """The text that ends a turn: what the template puts behind the answer, `<|eot_id|>` for Llama-3."""
    return formatted_chat[len(formatted_prompt) :].removeprefix(answer)


class StoredChat(Protocol):
    """A prepared record, as far as this module reads it."""

    @property
    def name(self) -> str: ...

    @property
    def question(self) -> str: ...

    @property
    def response(self) -> str: ...

    @property
    def formatted_chat(self) -> str: ...


def check_texts(records: Iterable[StoredChat], tokenizer: Any, model_name: str) -> None:
    """UserError where a question or an answer holds a control token of this tokenizer."""
    control = ControlTokens.of_tokenizer(tokenizer)
    for record in records:
        for name, text in (("question", record.question), ("answer", record.response)):
            if token := control.in_text(text):
                raise UserError(
                    f"the {name} ({text[:40]!r} …) holds {token}, a control token of this model's tokenizer",
                    where=model_name,
                    item=record.name,
                    remedy="Take it out of the specialty file and prepare the data again.",
                )


def check_tokenizer(tokenizer: Tokenizer, record: StoredChat, model_name: str) -> None:
    """UserError where a tokenizer does not know the special tokens of the stored template as single ids.

    Args:
        record: a prepared record. A token in its question or answer is text, and not the template's.
    """
    own = SPECIAL_TOKEN.findall(record.question) + SPECIAL_TOKEN.findall(record.response)
    for token in sorted(set(SPECIAL_TOKEN.findall(record.formatted_chat)) - set(own)):
        ids = tokenizer(token, add_special_tokens=False)["input_ids"]
        if len(ids) != 1:
            raise UserError(
                f"its tokenizer splits {token}, which the prepared data uses, into {len(ids)} pieces",
                where=model_name,
                remedy=f"Prepare the data for this model: python dataset_preparation.py CHAT_TEMPLATE={model_name} …",
            )
