"""Encoder-decoder models (T5 and its kin): the question into the encoder, the loss on the answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from transformers import Seq2SeqTrainer

from workbench import chat
from workbench.errors import UserError
from workbench.training.examples import Audit, Example, named
from workbench.training.packing import KeepApart
from workbench.training.steps import CutsSteps, Row


def encode_pairs(
    rows: Iterable[Mapping[str, Any]], tokenizer: Any, *, max_length: int, long_examples: str
) -> tuple[list[Example], Audit]:
    """Encode stored conversations for an encoder and a decoder; each side may have `max_length` tokens.

    The stored prompt goes into the encoder, what follows it is learnt; both end in the tokenizer's end token.
    """
    examples: list[Example] = []
    audit = Audit.empty()
    unanswerable = []
    for row in rows:
        asked = chat.encode_source(tokenizer, row["formatted_prompt"])
        answer = chat.encode_source(tokenizer, row["formatted_chat"][len(row["formatted_prompt"]) :])
        name = f"{row['specialty']} {row['id'][:8]}"
        audit.see(max(len(asked), len(answer)))
        if len(answer) < 2:
            unanswerable.append(name)
            continue
        if max(len(asked), len(answer)) > max_length:
            if long_examples == "drop":
                audit.dropped += 1
                continue
            audit.truncated += 1
            asked, answer = asked[: max_length - 1] + asked[-1:] if len(asked) > max_length else asked, answer[:max_length]
        examples.append(Example(row["id"], row["specialty"], asked, answer))
    if unanswerable:
        raise UserError(f"{named(unanswerable)}: the answer has no token that {type(tokenizer).__name__} knows.")
    audit.examples = len(examples)
    audit.tokens = sum(len(example.input_ids) + len(example.labels) for example in examples)
    audit.supervised_tokens = sum(len(example.labels) for example in examples)
    return examples, audit


class PairTrainer(CutsSteps, Seq2SeqTrainer):
    """Trains an encoder-decoder model, whole or by an adapter; micro-batches hold examples of like length.

    Args:
        tokens_per_batch: tokens of both sides, padding included, in a micro-batch.
    """

    def __init__(self, *, tokens_per_batch: int, pad_token_id: int, **keywords: Any) -> None:
        super().__init__(data_collator=KeepApart(), **keywords)
        self.tokens_per_batch, self.pad_token_id = tokens_per_batch, pad_token_id

    def supervised(self, row: Row) -> int:
        return len(row["labels"])

    def length(self, row: Row) -> int:
        return len(row["input_ids"]) + len(row["labels"])

    def cut(self, rows: Sequence[Row]) -> list[list[Row]]:
        groups: list[list[Row]] = []
        for row in sorted(rows, key=self.length):  # the longest so far is always the last
            if not groups or (len(groups[-1]) + 1) * self.length(row) > self.tokens_per_batch:
                groups.append([])
            groups[-1].append(row)
        return groups

    def collate(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        """input_ids and attention_mask, (batch, longest question), and labels, (batch, longest answer)."""

        def padded(values: list[list[int]], filler: int) -> torch.Tensor:
            width = max(map(len, values))
            return torch.tensor([value + [filler] * (width - len(value)) for value in values], device=self.accelerator.device)

        asked = [list(row["input_ids"]) for row in rows]
        return {
            "input_ids": padded(asked, self.pad_token_id),
            "attention_mask": padded([[1] * len(ids) for ids in asked], 0),
            "labels": padded([list(row["labels"]) for row in rows], -100),
        }

    def summed_loss(self, model: torch.nn.Module, rows: Sequence[Row]) -> torch.Tensor:
        losses, _, _ = self.token_losses(model, rows)
        return losses.sum()

    def token_losses(self, model: torch.nn.Module, rows: Sequence[Row]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        batch = self.collate(rows)
        logits = model(**batch, use_cache=False).logits.float()
        kept = batch["labels"] != -100
        targets = batch["labels"][kept]
        losses = torch.nn.functional.cross_entropy(logits[kept], targets, reduction="none")
        return losses, logits[kept].argmax(-1) == targets, kept.nonzero()[:, 0]
