"""Loads the examples of a training run from a prepared folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meerkat_workbench.core.errors import UserError
from meerkat_workbench.tuning import chat, llm
from meerkat_workbench.tuning.artifacts import Split, read_ledger
from meerkat_workbench.tuning.data import dataset_folders
from meerkat_workbench.tuning.data.dataset_folders import PreparedRecord, PreparedSplit
from meerkat_workbench.tuning.training.examples import Audit, Example, LongExamples, encode_records


@dataclass(frozen=True)
class TrainingExamples:
    """Train and eval examples, and lines of text that describe them."""

    train: list[Example]
    eval: list[Example]
    audit: list[str]

    def lengths(self, *, both_sides: bool) -> list[int]:
        """Tokens of each train example; for an encoder-decoder, `both_sides` adds the answer's tokens to the question's."""
        return [len(example.input_ids) + both_sides * len(example.labels) for example in self.train]


def load_examples(
    folder: Path, tokenizer: Any, model_name: str, *, encoder_decoder: bool, max_length: int, long_examples: LongExamples
) -> TrainingExamples:
    """Encode the train and eval split of a prepared folder.

    Args:
        model_name: the model as the settings name it, for messages.
        max_length: the most tokens of an example (MAX_SEQ_LENGTH).

    Raises:
        UserError: a split is empty, the data does not fit the tokenizer, or an example has nothing to learn.
    """
    splits = {split: dataset_folders.read_split(folder, split) for split in (Split.TRAIN, Split.EVAL)}
    for split, records in splits.items():
        if not len(records):
            remedy = _remedy_for_empty(folder, split, splits[Split.TRAIN])
            raise UserError(f"the {split} split is empty", where=folder, item=split, remedy=remedy)
    first = splits[Split.TRAIN][0]
    chat.check_tokenizer(tokenizer, first, model_name)
    for records in [*splits.values(), dataset_folders.read_split(folder, Split.HOLDOUT)]:  # the evaluation will ask the holdout
        chat.check_texts(records, tokenizer, model_name)
    encoded: dict[Split, tuple[list[Example], Audit]] = {}
    for split, records in splits.items():
        encoded[split] = _encode(records, tokenizer, first, folder, encoder_decoder, max_length, long_examples)
        if not encoded[split][0]:
            fault = f"every {split} example is longer than MAX_SEQ_LENGTH={max_length}"
            raise UserError(fault, where=folder, item=split, remedy="Raise MAX_SEQ_LENGTH.")
    (train, train_audit), (evaluation, eval_audit) = encoded[Split.TRAIN], encoded[Split.EVAL]
    audit = [*train_audit.lines("train", max_length), eval_audit.lines("eval", max_length)[0]]
    return TrainingExamples(train, evaluation, audit)


def check_vocabulary(location: str, examples: TrainingExamples) -> None:
    """Raise UserError if the model lacks an embedding for an id of the examples."""
    highest = max(max(*example.input_ids, *example.labels) for example in [*examples.train, *examples.eval])
    llm.check_vocabulary(location, highest)


def _encode(
    records: PreparedSplit, tokenizer: Any, first: PreparedRecord, folder: Path, encoder_decoder: bool, max_length: int,
    long_examples: LongExamples,
) -> tuple[list[Example], Audit]:  # fmt: skip
    if encoder_decoder:
        from meerkat_workbench.tuning.training.seq2seq_trainer import encode_pairs

        return encode_pairs(records, tokenizer, max_length=max_length, long_examples=long_examples)
    terminator = chat.turn_terminator(first.formatted_prompt, first.formatted_chat, first.response)
    if not terminator.strip():
        raise UserError(
            "its conversations do not mark the end of an answer, so a decoder would never learn to stop",
            where=folder,
            remedy="Prepare the data with CHAT_TEMPLATE=llama3 (plain is for MODEL_TYPE=encoder-decoder).",
        )
    return encode_records(records, tokenizer, max_length=max_length, long_examples=long_examples, terminator=terminator)


def _remedy_for_empty(folder: Path, split: Split, train: PreparedSplit) -> str:
    """How to fill an empty split; larger shares are proposed only if there are records for them."""
    sizes = read_ledger(folder)[-1].sizes
    questions = {record.question for record in train}
    if len(train) > 1 and len(questions) <= len(sizes.train):
        return (
            f"All {len(train)} records of the train set ask {len(questions)} question(s), and records with the same question stay "
            "in one split. Is a part of the question missing, in a field that is not read?"
        )
    if not sizes.total(Split.POOL) + (sizes.total(Split.TRAIN) if split is Split.EVAL else 0):
        set_aside = sum(sizes.set_aside.values())
        repeats = f" ({set_aside} records repeat a fixed record and are set aside)" if set_aside else ""
        return f"No records are left for this split{repeats}. Add some."
    if split is Split.EVAL:
        return "Raise EVAL_SPLIT_SIZE or INITIAL_TRAIN_PERCENTAGE, and prepare the data again with --fresh."
    return "Raise the shares and prepare the data again."
