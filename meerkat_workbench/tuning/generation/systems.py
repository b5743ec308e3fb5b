"""Systems of an evaluation: the models that are asked, what each is given, and how they are loaded."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from meerkat_workbench.core import console
from meerkat_workbench.core.errors import UserError
from meerkat_workbench.device import hub
from meerkat_workbench.device.devices import Precision
from meerkat_workbench.tuning import chat, llm
from meerkat_workbench.tuning.artifacts import BASE, TUNED, SystemKind, TrainingResult
from meerkat_workbench.tuning.data.dataset_folders import PreparedRecord
from meerkat_workbench.tuning.generation.questions import Question, questions_of

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,40}")
RESERVED = {BASE, TUNED, "finetuned"}
ADDRESS = re.compile(r"https?://\S+")
ADAPTER_CONFIG = "adapter_config.json"
ON_BASE = (SystemKind.BASE, SystemKind.ADAPTER)


@dataclass(frozen=True)
class System:
    """One model as it is asked.

    Attributes:
        source: a Hub name, a folder or an address.
        identity: of weights and precision, for the keys of its answers.
        system_message: in place of the one that the data was prepared with; None keeps that.
        served_as: a server's name for the model.
    """

    name: str
    kind: SystemKind
    source: str
    identity: str
    system_message: str | None = None
    served_as: str = ""
    encoder_decoder: bool = False

    @property
    def adapter(self) -> str | None:
        """PEFT's name for its adapter, if it is one."""
        return f"arm_{self.name}" if self.kind is SystemKind.ADAPTER else None

    @property
    def is_local(self) -> bool:
        """Whether this machine answers, and not a server."""
        return self.kind is not SystemKind.ENDPOINT


@dataclass(frozen=True)
class Loading:
    """How models of this machine are loaded."""

    load_in_4bit: bool
    precision: Precision

    @property
    def label(self) -> str:
        """How weights are stored and multiplied, for the keys of answers: "nf4" is NF4 with products in bf16."""
        if not self.load_in_4bit:
            return self.precision
        return "nf4" if self.precision == "bf16" else f"nf4 {self.precision}"


def identities(training: TrainingResult, loading: Loading, *, remote: bool) -> tuple[str, str]:
    """Identities of base and tuned model: their weights, and what they compute in.

    What a server computes in is not known here; its answers (`remote`) are known by the weights alone.
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
        served_as: the server's names for base and tuned model; empty for the names of the settings.
    """
    identity, tuned_identity = identities(training, loading, remote=bool(endpoint))
    if endpoint:
        names = served_as or [base_name, str(adapter)]
        return [
            System(name, SystemKind.ENDPOINT, endpoint, f"{endpoint} {served} {one}", served_as=served)
            for name, served, one in zip((BASE, TUNED), names, (identity, tuned_identity), strict=True)
        ]
    # a model trained whole has no adapter to switch off: base and tuned are loaded one after the other
    kind = SystemKind.ADAPTER if (adapter / ADAPTER_CONFIG).is_file() else SystemKind.MODEL
    both = training.encoder_decoder
    return [
        System(BASE, SystemKind.BASE, base_name, identity, encoder_decoder=both),
        System(TUNED, kind, str(adapter), tuned_identity, encoder_decoder=both),
    ]


def parse_models(
    wanted: Mapping[str, object], *, base: System, trained: str, loading: Loading, known: Mapping[str, str]
) -> list[System]:
    """The systems of `MODELS`: name to an adapter of this base, a model, "base: SYSTEM MESSAGE" or "ADDRESS MODEL".

    Args:
        trained: identity of the tuned model's weights; a server's answers are asked for anew where it has changed.
        known: identities of a finished evaluation whose answers are only scored again, so that no model is looked at.
    """
    found = []
    for name, value in wanted.items():
        text = str(value).strip()
        if not NAME.fullmatch(name) or name in RESERVED:
            remedy = f"Take letters, digits and -, and none of {', '.join(sorted(RESERVED))}."
            raise UserError(f"{name!r} cannot be a name", where="MODELS", item=name, remedy=remedy)
        if ADDRESS.match(text):
            address, _, model = text.partition(" ")
            if not model.strip():
                raise UserError("give address and model", where="MODELS", item=name, remedy=f"Such as {name}: {address} MODEL.")
            identity = f"{address} {model.strip()} {trained}"
            found.append(System(name, SystemKind.ENDPOINT, address, identity, served_as=model.strip()))
        elif text.startswith("base:"):
            if base.kind is not SystemKind.BASE:
                fault = "a system message of its own needs the base on this machine, and ENDPOINT asks a server"
                raise UserError(fault, where="MODELS", item=name)
            found.append(replace(base, name=name, system_message=text.removeprefix("base:").strip()))
        elif (Path(text) / ADAPTER_CONFIG).is_file():
            found.append(_adapter(name, Path(text), base))
        else:
            found.append(_whole_model(name, text, loading, known.get(name)))
    return found


def _adapter(name: str, folder: Path, base: System) -> System:
    training = TrainingResult.require(folder)
    if base.kind is not SystemKind.BASE or not base.identity.startswith(training.inputs.base_weights):
        raise UserError(f"{folder} is an adapter of {training.base_model}, not of {base.source}", where="MODELS", item=name)
    identity = f"{base.identity} {training.outputs.adapter}"
    return replace(base, name=name, kind=SystemKind.ADAPTER, source=str(folder), identity=identity)


def _whole_model(name: str, source: str, loading: Loading, known_identity: str | None) -> System:
    if known_identity is None:
        llm.require_device_for(source, load_in_4bit=loading.load_in_4bit, precision=loading.precision)
    location = llm.locate(source)
    both = llm.is_encoder_decoder(llm.load_config(location))
    identity = known_identity or f"{hub.weights_hash(location)} {loading.label}"
    return System(name, SystemKind.MODEL, location, identity, encoder_decoder=both)


def same_prompts(one: System, other: System) -> bool:
    """Whether two systems are the base and an adapter of it, or two of these, and so are given the same ids."""
    both = one.kind in ON_BASE and other.kind in ON_BASE
    return both and (one.system_message, one.encoder_decoder) == (other.system_message, other.encoder_decoder)


def load_tokenizer(system: System, adapter: Path) -> Any:
    """A system's tokenizer; None for a server.

    The tuned model and its base have the tokenizer that was used in training, which lies in the folder `adapter`.
    """
    if not system.is_local:
        return None
    own = system.kind is SystemKind.MODEL and system.source != str(adapter)
    return llm.load_tokenizer(system.source if own else str(adapter))


def questions_for(
    system: System,
    splits: Mapping[str, Sequence[PreparedRecord]],
    tokenizer: Any,
    limit: int | None,
    prepared_system_message: str,
) -> list[Question]:
    """Every question as this system is asked it.

    Models are given the stored prompt. A system with a system message of its own gets it in place of the prepared one; a whole
    encoder-decoder, which knows no chat tokens, gets question and message in plain text.
    """
    found: list[Question] = []
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
        if system.system_message is not None:
            records = [_with_message(record, system, prepared_system_message) for record in records]
        found += questions_of(split, records, tokenizer, limit, encoder_decoder=system.encoder_decoder)
    return found


def _with_message(record: PreparedRecord, system: System, prepared: str) -> PreparedRecord:
    before, found, after = record.formatted_prompt.partition(prepared)
    if not prepared or not found:
        fault = "the stored prompts hold no system message that could be exchanged"
        raise UserError(fault, where="MODELS", item=system.name, remedy="Prepare with a SYSTEM_MESSAGE.")
    message = str(system.system_message)
    turns = [{"role": "system", "content": message}, *[turn for turn in record.messages if turn["role"] != "system"]]
    return replace(record, formatted_prompt=before + message + after, messages=turns)


def load_models(systems: Sequence[System], base: str, loading: Loading) -> Iterator[tuple[Any, list[System]]]:
    """Models of this machine with the systems that each answers for: whole ones, then adapters on one load of their `base`."""

    def load(source: str) -> Any:
        with console.working(f"loading {source}"):
            return llm.load_base(source, load_in_4bit=loading.load_in_4bit, precision=loading.precision).eval()

    for system in systems:
        if system.kind is SystemKind.MODEL:
            yield load(system.source), [system]
    on_base = [system for system in systems if system.kind in ON_BASE]
    if on_base:
        model = load(base)
        for system in on_base:
            if system.adapter:
                model = llm.load_adapter(model, Path(system.source), name=system.adapter)
        yield model, on_base
