"""Encodes prepared records as token ids and labels, and audits them before training."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from meerkat_workbench.core.errors import UserError
from meerkat_workbench.tuning import chat
from meerkat_workbench.tuning.data.dataset_folders import PreparedRecord

LongExamples = Literal["truncate", "drop"]  # values of LONG_EXAMPLES
MAX_NAMES = 5  # records that an error names; the rest are counted
HISTOGRAM_EDGES = (64, 128, 256, 512, 1024, 2048, 4096, 8192)


@dataclass(slots=True)
class Example:
    """One conversation as token ids. Labels are -100 over the prompt, and the ids over the answer and its end of turn."""

    id: str
    specialty: str
    input_ids: list[int]
    labels: list[int]

    @property
    def supervised(self) -> int:
        """Number of supervised tokens."""
        return sum(label != -100 for label in self.labels)


@dataclass
class Audit:
    """Counts and lengths in tokens of a set of examples.

    `longest` and `histogram` describe lengths before truncation; `tokens` and `supervised_tokens` count what is trained on.
    """

    examples: int
    tokens: int
    supervised_tokens: int
    longest: int
    truncated: int
    dropped: int
    histogram: dict[str, int] = field(default_factory=dict)

    @classmethod
    def empty(cls) -> Audit:
        return cls(0, 0, 0, 0, 0, 0, _empty_histogram())

    def count_length(self, length: int) -> None:
        """Add an example's length in tokens, before truncation, to the histogram."""
        self.longest = max(self.longest, length)
        self.histogram[_span(length)] += 1

    def lines(self, name: str, limit: int) -> list[str]:
        """The audit as lines of text, with the histogram of lengths as bars.

        Args:
            name: of the set of examples.
            limit: MAX_SEQ_LENGTH.
        """
        lines = [f"{name}: {self.examples:,} examples, {self.tokens:,} tokens, {self.supervised_tokens:,} of them supervised"]
        too_long = self.truncated + self.dropped
        if too_long:
            treatment = "their answers cut there" if self.truncated else "left out"
            lines.append(
                f"  {too_long:,} longer than MAX_SEQ_LENGTH={limit}: {treatment} (the longest has {self.longest:,} tokens)"
            )
        peak = max(self.histogram.values(), default=1)
        for span, count in self.histogram.items():
            if count:
                lines.append(f"  {span:>11} tokens {'█' * max(1, round(24 * count / peak)):<24} {count:,}")
        return lines


def encode_records(
    records: Iterable[PreparedRecord], tokenizer: chat.Tokenizer, *, max_length: int, long_examples: LongExamples, terminator: str
) -> tuple[list[Example], Audit]:
    """Encode stored conversations.

    Args:
        max_length: most tokens of an example.
        long_examples: "truncate" cuts off the end of the answer; "drop" leaves the example out.
        terminator: text that ends a turn; its last token must be supervised in every answer that is not truncated.

    Raises:
        UserError: records have no supervised token, two begin-of-text tokens, or no end of turn; it names them.
    """
    examples: list[Example] = []
    audit = Audit.empty()
    without_answer, without_end, doubled_begin = [], [], []
    end_ids = tokenizer(terminator.strip(), add_special_tokens=False)["input_ids"] if terminator.strip() else []
    for record in records:
        encoded = chat.encode(tokenizer, record.formatted_prompt, record.formatted_chat)
        ids, labels = encoded.input_ids, encoded.labels
        audit.count_length(len(ids))
        if len(ids) > max_length and long_examples == "drop":
            audit.dropped += 1
            continue
        if encoded.prompt_length >= min(max_length, len(ids)):
            without_answer.append(record.name)
            continue
        if end_ids and end_ids[-1] not in ids[-2:]:
            without_end.append(record.name)
        if len(ids) > 1 and ids[0] == ids[1] == tokenizer.bos_token_id:
            doubled_begin.append(record.name)
        if len(ids) > max_length:
            audit.truncated += 1
            ids, labels = ids[:max_length], labels[:max_length]
        examples.append(Example(record.id, record.specialty, ids, labels))
    if without_answer:
        raise UserError(
            f"nothing to learn: the prompt alone fills MAX_SEQ_LENGTH={max_length}",
            where=first_names(without_answer),
            remedy="Raise MAX_SEQ_LENGTH or shorten SYSTEM_MESSAGE or the question.",
        )
    if without_end:
        fault = f"the chat does not end in {terminator!r}"
        raise UserError(fault, where=first_names(without_end), remedy="Correct apply_chat_template.")
    if doubled_begin:
        fault = "the chat begins with two begin-of-text tokens"
        raise UserError(fault, where=first_names(doubled_begin), remedy="Correct apply_chat_template.")
    audit.examples = len(examples)
    audit.tokens = sum(len(example.input_ids) for example in examples)
    audit.supervised_tokens = sum(example.supervised for example in examples)
    return examples, audit


def first_names(names: Sequence[str]) -> str:
    """The first `MAX_NAMES` names, and how many more there are."""
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return ", ".join(names[:MAX_NAMES]) + more


def _empty_histogram() -> dict[str, int]:
    low, spans = 0, {}
    for edge in HISTOGRAM_EDGES:
        spans[f"{low}-{edge - 1}"] = 0
        low = edge
    return {**spans, f"{low}+": 0}


def _span(length: int) -> str:
    low = 0
    for edge in HISTOGRAM_EDGES:
        if length < edge:
            return f"{low}-{edge - 1}"
        low = edge
    return f"{low}+"
