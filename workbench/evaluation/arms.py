"""Arms of an evaluation: the models that are asked, what each is given, and how they are loaded."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from workbench import chat, console, manifest, models
from workbench.devices import Precision
from workbench.errors import UserError
from workbench.evaluation.answers import Question, questions_of

BASE, TUNED = "base", "tuned"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,40}")
RESERVED = {BASE, TUNED, "finetuned"}
ADDRESS = re.compile(r"https?://\S+")


@dataclass(frozen=True)
class Arm:
    """One model as it is asked.

    Args:
        kind: "base"; "adapter" on that base; "model", whole and loaded by itself; or "endpoint", on a server.
        source: a Hub name, a folder or an address.
        identity: of weights and precision, for the keys of its answers.
        system_message: in place of the one that the data was prepared with; None keeps that.
        served_as: an endpoint's name for the model.
    """

    name: str
    kind: str
    source: str
    identity: str
    system_message: str | None = None
    served_as: str = ""
    encoder_decoder: bool = False

    @property
    def adapter(self) -> str | None:
        """PEFT's name for its adapter, if it is one."""
        return f"arm_{self.name}" if self.kind == "adapter" else None


def further(
    wanted: Mapping[str, Any], *, base: Arm, precision: Precision, load_in_4bit: bool, run: str,
    known: Mapping[str, str],
) -> list[Arm]:  # fmt: skip
    """The arms of `MODELS`: name to an adapter of this base, a model, "base: SYSTEM MESSAGE" or "ADDRESS MODEL".

    Args:
        known: identities of a finished evaluation whose answers are only scored again, so that no model is looked at.
        run: identity of this evaluation's models; a server's answers are asked for anew where it changed.
    """
    found = []
    for name, value in wanted.items():
        text = str(value).strip()
        if not NAME.fullmatch(name) or name in RESERVED:
            raise UserError(
                f"MODELS: {name!r} cannot be a name; take letters, digits and -, and none of {', '.join(sorted(RESERVED))}."
            )
        if ADDRESS.match(text):
            address, _, model = text.partition(" ")
            if not model.strip():
                raise UserError(f"MODELS: {name}: give address and model, such as {name}: {address} MODEL.")
            found.append(Arm(name, "endpoint", address, f"{address} {model.strip()} {run}", served_as=model.strip()))
        elif text.startswith("base:"):
            if base.kind != "base":
                raise UserError(
                    f"MODELS: {name}: a system message of its own needs the base on this machine, and ENDPOINT asks a server."
                )
            found.append(replace(base, name=name, system_message=text.removeprefix("base:").strip()))
        elif (Path(text) / "adapter_config.json").is_file():
            found.append(_adapter(name, Path(text), base))
        else:
            if name not in known:
                models.require_device_for(text, load_in_4bit=load_in_4bit, precision=precision)
            location = models.locate(text)
            both = models.is_encoder_decoder(models.load_config(location))
            found.append(
                Arm(
                    name,
                    "model",
                    location,
                    known.get(name) or f"{models.weights_hash(location)} {arithmetic(precision, load_in_4bit=load_in_4bit)}",
                    encoder_decoder=both,
                )
            )
    return found


def _adapter(name: str, folder: Path, base: Arm) -> Arm:
    training = manifest.require(folder, "fine_tuning.py")
    if base.kind != "base" or not base.identity.startswith(training["inputs"]["base_weights"]):
        raise UserError(f"MODELS: {name}: {folder} is an adapter of {training['settings']['MODEL_NAME']}, not of {base.source}.")
    return replace(
        base, name=name, kind="adapter", source=str(folder), identity=f"{base.identity} {training['inputs']['adapter']}"
    )


def asked_alike(one: Arm, other: Arm) -> bool:
    """Whether two arms are the base and an adapter of it, or two of these, and so are given the same ids."""
    both = {one.kind, other.kind} <= {"base", "adapter"}
    return both and (one.system_message, one.encoder_decoder) == (other.system_message, other.encoder_decoder)


def questions_for(
    arm: Arm, splits: Mapping[str, Any], tokenizer: Any, limit: int | None, prepared_system_message: str
) -> list[Question]:
    """Every question as this arm is asked it.

    Models are given the stored prompt. An arm with a system message of its own gets it in place of the prepared one; a
    whole encoder-decoder, which knows no chat tokens, question and message in plain text.
    """
    found: list[Question] = []
    for split, rows in splits.items():
        if len(rows) and arm.encoder_decoder and chat.SPECIAL_TOKEN.search(rows[0]["formatted_prompt"]):
            rows = [
                {**row, "formatted_prompt": chat.render_plain(row["question"], None, prepared_system_message)} for row in rows
            ]
        elif len(rows) and tokenizer is not None:
            chat.check_tokenizer(tokenizer, rows[0], arm.source)
        if tokenizer is not None:
            chat.check_texts(rows, tokenizer, arm.source)
        if arm.system_message is not None:
            rows = [_with_message(row, arm, prepared_system_message) for row in rows]
        found += questions_of(split, rows, tokenizer, limit, encoder_decoder=arm.encoder_decoder)
    return found


def _with_message(row: Mapping[str, Any], arm: Arm, prepared: str) -> dict[str, Any]:
    before, found, after = row["formatted_prompt"].partition(prepared)
    if not prepared or not found:
        raise UserError(
            f"MODELS: {arm.name}: the stored prompts hold no system message that could be exchanged. Prepare with a SYSTEM_MESSAGE."
        )
    message = str(arm.system_message)
    turns = [{"role": "system", "content": message}, *[turn for turn in row["messages"] if turn["role"] != "system"]]
    return {**row, "formatted_prompt": before + message + after, "messages": turns}


def arithmetic(precision: Precision, *, load_in_4bit: bool) -> str:
    """How weights are stored and multiplied, for the keys of answers: "nf4" is NF4 with products in bf16, "nf4 fp32" with those in fp32."""
    if not load_in_4bit:
        return precision
    return "nf4" if precision == "bf16" else f"nf4 {precision}"


def loads(arms: Sequence[Arm], base: str, *, load_in_4bit: bool, precision: Precision) -> Iterator[tuple[Any, list[Arm]]]:
    """Models of this machine with the arms that each answers for: whole ones, then adapters on one load of their `base`."""

    def load(source: str) -> Any:
        with console.working(f"loading {source}"):
            return models.load_base(source, load_in_4bit=load_in_4bit, precision=precision).eval()

    for arm in arms:
        if arm.kind == "model":
            yield load(arm.source), [arm]
    of_base = [arm for arm in arms if arm.kind in ("base", "adapter")]
    if of_base:
        model = load(base)
        for arm in of_base:
            if arm.adapter:
                model = models.load_adapter(model, Path(arm.source), name=arm.adapter)
        yield model, of_base
