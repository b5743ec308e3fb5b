"""The systems of an evaluation: which models are asked, with which prompts, and how they are loaded."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meerkat_workbench.core import console
from meerkat_workbench.core.errors import UserError
from meerkat_workbench.device import hub
from meerkat_workbench.device.devices import Precision
from meerkat_workbench.tuning import chat, llm, model_folders
from meerkat_workbench.tuning.artifacts import BASE, FEW_SHOT, TUNED, SystemKind, TrainingResult, open_book_name
from meerkat_workbench.tuning.data.dataset_folders import PreparedRecord
from meerkat_workbench.tuning.generation.few_shot import FewShotPrompts
from meerkat_workbench.tuning.generation.questions import Question, questions_of

if TYPE_CHECKING:
    from meerkat_workbench.tuning.generation.open_book import OpenBook

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,40}")
RESERVED = {BASE, TUNED, FEW_SHOT, open_book_name(BASE), open_book_name(TUNED), "finetuned"}
ADDRESS = re.compile(r"https?://\S+")
ON_BASE = (SystemKind.BASE, SystemKind.ADAPTER)


@dataclass(frozen=True)
class System:
    """One model, and how it is asked.

    Attributes:
        source: a Hub name, a folder or an address.
        identity: identifies weights and precision in the keys of its answers.
        system_message: replaces the system message of the prepared data; None keeps it.
        served_as: the model's name on its server.
        few_shot: whether its prompts hold a length hint and train pairs (`few_shot.FewShotPrompts`).
        open_book: whether its prompts hold retrieved passages (`open_book.OpenBook`).
    """

    name: str
    kind: SystemKind
    source: str
    identity: str
    system_message: str | None = None
    served_as: str = ""
    encoder_decoder: bool = False
    few_shot: bool = False
    open_book: bool = False

    @property
    def adapter(self) -> str | None:
        """PEFT's name for the adapter; None if the system is not an adapter."""
        name = self.name.removesuffix(open_book_name("")) if self.open_book else self.name  # one load serves both
        return f"arm_{name}" if self.kind is SystemKind.ADAPTER else None

    @property
    def is_local(self) -> bool:
        """Whether the model runs on this machine, not on a server."""
        return self.kind is not SystemKind.ENDPOINT


@dataclass(frozen=True)
class Loading:
    """How models of this machine are loaded."""

    load_in_4bit: bool
    precision: Precision

    @property
    def label(self) -> str:
        """How weights are stored and multiplied, for the keys of answers; "nf4" means NF4 with products in bf16."""
        if not self.load_in_4bit:
            return self.precision
        return "nf4" if self.precision == "bf16" else f"nf4 {self.precision}"


def identities(training: TrainingResult, loading: Loading, *, remote: bool) -> tuple[str, str]:
    """Identities of base and tuned model: their weights and their precision.

    The precision of a server (`remote`) is unknown, so there the identity depends on the weights only.
    """
    label = replace(loading, precision="bf16").label if remote else loading.label
    base = f"{training.inputs.base_weights} {label}"
    return base, f"{base} {training.outputs.adapter}"


def base_and_tuned(
    training: TrainingResult, base_name: str, adapter: Path, loading: Loading, *, endpoint: str, served_as: Sequence[str]
) -> list[System]:
    """The two systems that every evaluation has.

    Args:
        endpoint: address of a server that answers for both; empty for this machine.
        served_as: names of base and tuned model on the server; empty for the names in the settings.
    """
    identity, tuned_identity = identities(training, loading, remote=bool(endpoint))
    if endpoint:
        names = served_as or [base_name, str(adapter)]
        return [
            System(name, SystemKind.ENDPOINT, endpoint, f"{endpoint} {served} {weights}", served_as=served)
            for name, served, weights in zip((BASE, TUNED), names, (identity, tuned_identity), strict=True)
        ]
    # after full fine-tuning there is no adapter to switch off, so base and tuned model are loaded one after the other
    kind = SystemKind.ADAPTER if model_folders.holds_adapter(adapter) else SystemKind.MODEL
    encoder_decoder = training.encoder_decoder
    return [
        System(BASE, SystemKind.BASE, base_name, identity, encoder_decoder=encoder_decoder),
        System(TUNED, kind, str(adapter), tuned_identity, encoder_decoder=encoder_decoder),
    ]


def few_shot_base(base: System) -> System:
    """The base that is shown train pairs in its prompt."""
    return replace(base, name=FEW_SHOT, few_shot=True)


def open_book(system: System) -> System:
    """The same system with retrieved passages in its prompts."""
    return replace(system, name=open_book_name(system.name), open_book=True)


def parse_models(
    wanted: Mapping[str, object], *, base: System, trained: str, loading: Loading, known: Mapping[str, str]
) -> list[System]:
    """Parse MODELS: name to an adapter of this base, a model, "base: SYSTEM MESSAGE" or "ADDRESS MODEL".

    Args:
        wanted: the setting.
        trained: identity of the tuned model's weights; if it changes, servers are asked again.
        known: identities by system, if the answers of a finished evaluation are only scored again; the weights of these
            models are not read.

    Raises:
        UserError: a name or a value is not valid, or an adapter belongs to another base.
    """
    parsed = []
    for name, value in wanted.items():
        text = str(value).strip()
        if not NAME.fullmatch(name) or name in RESERVED:
            remedy = f"Use up to 41 letters, digits, _ and -, and none of the names {', '.join(sorted(RESERVED))}."
            raise UserError("cannot be a name", where="MODELS", item=name, remedy=remedy)
        if ADDRESS.match(text):
            address, _, model = text.partition(" ")
            if not model.strip():
                raise UserError(
                    "has no model after the address", where="MODELS", item=name, remedy=f"For example {name}: {address} MODEL."
                )
            identity = f"{address} {model.strip()} {trained}"
            parsed.append(System(name, SystemKind.ENDPOINT, address, identity, served_as=model.strip()))
        elif text.startswith("base:"):
            if base.kind is not SystemKind.BASE:
                fault = "another system message needs the base on this machine, and ENDPOINT asks a server"
                raise UserError(fault, where="MODELS", item=name, remedy="Leave ENDPOINT or this model out.")
            parsed.append(replace(base, name=name, system_message=text.removeprefix("base:").strip()))
        elif model_folders.holds_adapter(Path(text)):
            parsed.append(_adapter(name, Path(text), base))
        else:
            parsed.append(_whole_model(name, text, loading, known.get(name)))
    return parsed


def _adapter(name: str, folder: Path, base: System) -> System:
    training = TrainingResult.require(folder)
    if base.kind is not SystemKind.BASE or not base.identity.startswith(training.inputs.base_weights):
        fault = f"{folder} is an adapter of {training.base_model}, not of {base.source}"
        raise UserError(fault, where="MODELS", item=name, remedy="Leave it out, or evaluate it with its own base.")
    identity = f"{base.identity} {training.outputs.adapter}"
    return replace(base, name=name, kind=SystemKind.ADAPTER, source=str(folder), identity=identity)


def _whole_model(name: str, source: str, loading: Loading, known_identity: str | None) -> System:
    if known_identity is None:
        llm.require_device_for(source, load_in_4bit=loading.load_in_4bit, precision=loading.precision)
    location = llm.locate(source)
    encoder_decoder = llm.is_encoder_decoder(llm.load_config(location))
    identity = known_identity or f"{hub.weights_hash(location)} {loading.label}"
    return System(name, SystemKind.MODEL, location, identity, encoder_decoder=encoder_decoder)


def same_prompts(one: System, other: System) -> bool:
    """Whether two systems get the same prompt ids: both are the base or an adapter of it, with the same system message."""
    both_on_base = one.kind in ON_BASE and other.kind in ON_BASE
    prompts = [(system.system_message, system.encoder_decoder, system.few_shot, system.open_book) for system in (one, other)]
    return both_on_base and prompts[0] == prompts[1]


def load_tokenizer(system: System, adapter: Path) -> Any:
    """A system's tokenizer; None for a server.

    The base, its adapters and the tuned model use the tokenizer of the training, which is in the folder `adapter`.
    """
    if not system.is_local:
        return None
    has_own = system.kind is SystemKind.MODEL and system.source != str(adapter)
    return llm.load_tokenizer(system.source if has_own else str(adapter))


def questions_for(
    system: System,
    splits: Mapping[str, Sequence[PreparedRecord]],
    tokenizer: Any,
    limit: int | None,
    prepared_system_message: str,
    few_shot: FewShotPrompts | None = None,
    passages: OpenBook | None = None,
) -> list[Question]:
    """Every question as this system is asked it.

    Models get the stored prompt. A system with its own system message gets that in place of the prepared one. An encoder-decoder
    knows no chat tokens, so it gets question and system message as plain text.

    Args:
        few_shot: the examples of a few-shot system.
        passages: of an open-book system.
    """
    questions: list[Question] = []
    for split, records in splits.items():
        if len(records) and system.encoder_decoder and chat.SPECIAL_TOKEN.search(records[0].formatted_prompt):
            records = [
                replace(record, formatted_prompt=chat.render_plain(record.question, None, prepared_system_message))
                for record in records
            ]
        elif len(records) and tokenizer is not None:
            chat.check_tokenizer(tokenizer, records[0], system.source)
        if tokenizer is not None:
            chat.check_texts(records, tokenizer, system.source)
        if system.few_shot and few_shot is not None:
            records = few_shot.apply(records, plain=system.encoder_decoder)
        if system.open_book and passages is not None:
            records = passages.apply(records)
        if system.system_message is not None:
            records = [_with_message(record, system, prepared_system_message) for record in records]
        questions += questions_of(split, records, tokenizer, limit, encoder_decoder=system.encoder_decoder)
    return questions


def _with_message(record: PreparedRecord, system: System, prepared: str) -> PreparedRecord:
    before, found, after = record.formatted_prompt.partition(prepared)
    if not prepared or not found:
        fault = "the stored prompts contain no system message that could be replaced"
        raise UserError(fault, where="MODELS", item=system.name, remedy="Prepare the data with a SYSTEM_MESSAGE.")
    message = str(system.system_message)
    turns = [{"role": "system", "content": message}, *[turn for turn in record.messages if turn["role"] != "system"]]
    return replace(record, formatted_prompt=before + message + after, messages=turns)


def load_models(systems: Sequence[System], base: str, loading: Loading) -> Iterator[tuple[Any, list[System]]]:
    """Load the models of this machine, each with its systems: whole models first, then all adapters on one load of `base`."""

    def load(source: str) -> Any:
        with console.working(f"loading {source}"):
            return llm.load_for_answers(source, load_in_4bit=loading.load_in_4bit, precision=loading.precision)

    for system in systems:
        if system.kind is SystemKind.MODEL:
            yield load(system.source), [system]
    on_base = [system for system in systems if system.kind in ON_BASE]
    if on_base:
        model, loaded = load(base), set[str]()
        for system in on_base:
            if system.adapter:
                if system.adapter in loaded:
                    continue
                model = llm.load_adapter(model, Path(system.source), name=system.adapter)
                loaded.add(system.adapter)
        yield model, on_base
