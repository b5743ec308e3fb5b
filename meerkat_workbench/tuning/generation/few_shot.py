"""The few-shot base: the base model with a length hint and three train pairs of the specialty in its prompt.

Tuning teaches how long answers are and how they are phrased. Examples in the prompt teach the same without tuning (in-context learning,
Brown et al. 2020). What the tuned model knows beyond this base is what tuning bought.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from meerkat_workbench.text import texts
from meerkat_workbench.tuning import chat
from meerkat_workbench.tuning.artifacts import Split
from meerkat_workbench.tuning.data import dataset_folders
from meerkat_workbench.tuning.data.dataset_folders import PreparedRecord

MAX_EXAMPLE_CHARS = 1000  # of an example's answer; a longer one is cut at the end of a sentence
MIN_SENTENCE_CHARS = 200  # less than this is not left of an answer that is cut
SENTENCE_END = re.compile(r"[.!?](?=\s)|[。！？।؟]")
Turns = list[dict[str, str]]  # role and content, as chat servers read them


@dataclass(frozen=True)
class Style:
    """What the few-shot base is shown of one specialty.

    Attributes:
        examples: train pairs; long answers are cut.
        length: median length of the specialty's train answers, in `unit`.
        unit: "words", or "characters" for scripts without spaces.
    """

    examples: tuple[PreparedRecord, ...]
    length: int
    unit: str

    @property
    def hint(self) -> str:
        return f"Answer in about {self.length} {self.unit}."


class FewShotPrompts:
    """Puts the examples of its specialty before each question.

    Args:
        styles: by specialty.
        system_message: of the prepared data; may be empty.
    """

    def __init__(self, styles: Mapping[str, Style], system_message: str) -> None:
        self.styles, self.system_message = styles, system_message

    @classmethod
    def read(cls, folder: Path, count: int, system_message: str) -> FewShotPrompts:
        """Take the first `count` records of each specialty of the train split.

        The order of that split is drawn once by the seed, and a train set that grows keeps its first records, so iterations share
        their examples. A specialty without train records has no style, and its questions are asked as they are.
        """
        by_specialty: dict[str, list[PreparedRecord]] = {}
        answers: dict[str, list[int]] = {}
        in_characters: dict[str, bool] = {}
        for record in dataset_folders.read_split(folder, Split.TRAIN):
            chosen = by_specialty.setdefault(record.specialty, [])
            if not chosen:
                in_characters[record.specialty] = bool(texts.script_without_spaces(record.response))
            if len(chosen) < count:
                chosen.append(_shortened(record))
            characters = in_characters[record.specialty]
            answers.setdefault(record.specialty, []).append(len(record.response if characters else record.response.split()))
        styles = {
            name: Style(
                tuple(chosen), rounded(statistics.median(answers[name])), "characters" if in_characters[name] else "words"
            )
            for name, chosen in by_specialty.items()
        }
        return cls(styles, system_message)

    def apply(self, records: Iterable[PreparedRecord], *, plain: bool) -> list[PreparedRecord]:
        """The records with examples and length hint in their prompts.

        Args:
            plain: for an encoder-decoder, which knows no turns of a chat.
        """
        return [
            record if (style := self.styles.get(record.specialty)) is None else self._with_style(record, style, plain=plain)
            for record in records
        ]

    def as_text(self) -> str:
        """The first example of as many specialties as a specialty has examples, as text before a question in no chat."""
        styles = [style for style in self.styles.values() if style.examples]
        shown = [style.examples[0] for style in styles][: max((len(style.examples) for style in styles), default=0)]
        return _as_text(shown)

    def _with_style(self, record: PreparedRecord, style: Style, *, plain: bool) -> PreparedRecord:
        message = f"{self.system_message} {style.hint}".strip()
        turns: Turns = [{"role": "system", "content": message}] if self.system_message else []
        for example in style.examples:
            turns += chat.messages(example.question, example.response, "")
        turns += chat.messages(record.question, record.response, "")
        if not self.system_message:  # some templates refuse a system message
            turns[0] = {**turns[0], "content": f"{style.hint}\n\n{turns[0]['content']}"}
        prompt = None if plain else self._chat_prompt(record, style, message)
        return replace(record, messages=turns, formatted_prompt=prompt or self._text_prompt(record, style))

    def _chat_prompt(self, record: PreparedRecord, style: Style, message: str) -> str | None:
        """The examples as turns of the conversation; None if the stored prompts do not show how a turn begins.

        The text between system message and question ends the system's turn and begins the user's. What remains of it without the end of a
        turn begins each later question.
        """
        head, found, tail = record.formatted_prompt.partition(self.system_message) if self.system_message else ("", "", "")
        before, has_question, after = tail.rpartition(record.question)
        end = chat.turn_terminator(record.formatted_prompt, record.formatted_chat, record.response)
        if not found or not has_question or not end.strip() or end.strip() not in before:
            return None
        begin = before.partition(end.strip())[2].removeprefix(end[len(end.rstrip()) :])
        shots = [f"{example.question}{after}{example.response}{end}" for example in style.examples]
        return head + message + before + "".join(f"{shot}{begin}" for shot in shots) + record.question + after

    def _text_prompt(self, record: PreparedRecord, style: Style) -> str:
        """The examples as text before the question, for formats whose turns are not known."""
        before, found, after = record.formatted_prompt.rpartition(record.question)
        text = f"{style.hint}\n\n{_as_text(style.examples)}Question: {record.question}\nAnswer:"
        return before + text + after if found else f"{text}\n\n{record.formatted_prompt}"


def _as_text(examples: Iterable[PreparedRecord]) -> str:
    return "".join(f"Question: {example.question}\nAnswer: {example.response}\n\n" for example in examples)


def rounded(length: float) -> int:
    """A length rounded to tens, above 100 to fifties, so that a train set that grows keeps its hint."""
    step = 10 if length < 100 else 50
    return max(step, step * round(length / step))


def _shortened(record: PreparedRecord) -> PreparedRecord:
    """The record with its answer cut at the end of a sentence, if it is longer than an example may be."""
    answer = record.response
    if len(answer) <= MAX_EXAMPLE_CHARS:
        return record
    ends: Sequence[int] = [match.end() for match in SENTENCE_END.finditer(answer[:MAX_EXAMPLE_CHARS])]
    end = ends[-1] if ends and ends[-1] >= MIN_SENTENCE_CHARS else answer.rfind(" ", 0, MAX_EXAMPLE_CHARS)
    return replace(record, response=answer[: end if end > 0 else MAX_EXAMPLE_CHARS].rstrip())
