"""Prepared records to token ids and labels, and the audit of what will be learnt from them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from meerkat_workbench.core.errors import UserError
from meerkat_workbench.tuning import chat
from meerkat_workbench.tuning.data.dataset_folders import PreparedRecord

LongExamples = Literal["truncate", "drop"]  # values of LONG_EXAMPLES
MAX_NAMES = 5  # records an error names before it only counts
HISTOGRAM_EDGES = (64, 128, 256, 512, 1024, 2048, 4096, 8192)


@dataclass(slots=True)
class Example:
    """One conversation as ids; labels are -100 over the prompt and ids over the answer and its end of turn."""

    id: str
    specialty: str
    input_ids: list[int]
    labels: list[int]

    @property
    def supervised(self) -> int:
        return sum(label != -100 for label in self.labels)


@dataclass
class Audit:
    """What a set of examples amounts to, before anything is trained."""

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
        """Count an example's length, before anything is cut."""
        self.longest = max(self.longest, length)
        self.histogram[_span(length)] += 1

    def lines(self, name: str, limit: int) -> list[str]:
        """The audit in words, the histogram of lengths as a row of bars."""
        text = [f"{name}: {self.examples:,} examples, {self.tokens:,} tokens, {self.supervised_tokens:,} of them supervised"]
        long = self.truncated + self.dropped
        if long:
            done = "their answers cut there" if self.truncated else "left out"
            text.append(f"  {long:,} longer than MAX_SEQ_LENGTH={limit}: {done} (the longest has {self.longest:,} tokens)")
        peak = max(self.histogram.values(), default=1)
        for span, count in self.histogram.items():
            if count:
                text.append(f"  {span:>11} tokens {'█' * max(1, round(24 * count / peak)):<24} {count:,}")
        return text


def encode_records(
    records: Iterable[PreparedRecord], tokenizer: chat.Tokenizer, *, max_length: int, long_examples: LongExamples, terminator: str
) -> tuple[list[Example], Audit]:
    """Encode stored conversations.

    Args:
        max_length: tokens an example may have.
        long_examples: "truncate" cuts the answer's end off; "drop" leaves the example out.
        terminator: text that ends a turn; its last token must be learnt wherever an answer is whole.

    Raises:
        UserError: names records with nothing to learn, with two begin-of-text tokens, or without an end of turn.
    """
    examples: list[Example] = []
    audit = Audit.empty()
    unlearnable, endless, doubled = [], [], []
    end_ids = tokenizer(terminator.strip(), add_special_tokens=False)["input_ids"] if terminator.strip() else []
    for record in records:
        encoded = chat.encode(tokenizer, record.formatted_prompt, record.formatted_chat)
        ids, labels = encoded.input_ids, encoded.labels
        audit.count_length(len(ids))
        if len(ids) > max_length and long_examples == "drop":
            audit.dropped += 1
            continue
        if encoded.prompt_length >= min(max_length, len(ids)):
            unlearnable.append(record.name)
            continue
        if end_ids and end_ids[-1] not in ids[-2:]:
            endless.append(record.name)
        if len(ids) > 1 and ids[0] == ids[1] == tokenizer.bos_token_id:
            doubled.append(record.name)
        if len(ids) > max_length:
            audit.truncated += 1
            ids, labels = ids[:max_length], labels[:max_length]
        examples.append(Example(record.id, record.specialty, ids, labels))
    if unlearnable:
        raise UserError(
            f"nothing to learn: the prompt alone fills MAX_SEQ_LENGTH={max_length}",
            where=first_names(unlearnable),
            remedy="Raise MAX_SEQ_LENGTH or shorten SYSTEM_MESSAGE or the question.",
        )
    if endless:
        raise UserError(
            f"the chat does not end in {terminator!r}", where=first_names(endless), remedy="Correct apply_chat_template."
        )
    if doubled:
        fault = "begins with two begin-of-text tokens"
        raise UserError(fault, where=first_names(doubled), remedy="Correct apply_chat_template.")
    audit.examples = len(examples)
    audit.tokens = sum(len(example.input_ids) for example in examples)
    audit.supervised_tokens = sum(example.supervised for example in examples)
    return examples, audit


def first_names(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
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
