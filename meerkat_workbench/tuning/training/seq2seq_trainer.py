"""Trains encoder-decoder models such as T5: the encoder reads the question, and the loss is on the answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from transformers import Seq2SeqTrainer

from meerkat_workbench.core.errors import UserError
from meerkat_workbench.device import tensors
from meerkat_workbench.trainers.token_budget import TokenBudgetTrainer, TokenLosses
from meerkat_workbench.tuning import chat
from meerkat_workbench.tuning.data.dataset_folders import PreparedRecord
from meerkat_workbench.tuning.training.examples import Audit, Example, LongExamples, first_names


def encode_pairs(
    records: Iterable[PreparedRecord], tokenizer: chat.Tokenizer, *, max_length: int, long_examples: LongExamples
) -> tuple[list[Example], Audit]:
    """Encode stored conversations for an encoder and a decoder; each side has at most `max_length` tokens.

    The encoder reads the stored prompt, and the decoder learns the text after it. Both end with the tokenizer's end token.

    Raises:
        UserError: an answer has no token.
    """
    examples: list[Example] = []
    audit = Audit.empty()
    without_tokens = []
    for record in records:
        question = chat.encode_source(tokenizer, record.formatted_prompt)
        answer = chat.encode_source(tokenizer, record.formatted_chat[len(record.formatted_prompt) :])
        audit.count_length(max(len(question), len(answer)))
        if len(answer) < 2:
            without_tokens.append(record.name)
            continue
        if max(len(question), len(answer)) > max_length:
            if long_examples == "drop":
                audit.dropped += 1
                continue
            audit.truncated += 1
            question = question[: max_length - 1] + question[-1:] if len(question) > max_length else question
            answer = answer[:max_length]
        examples.append(Example(record.id, record.specialty, question, answer))
    if without_tokens:
        remedy = "Use a model for the language of the data, or remove these records."
        fault = f"the answer has no token that {type(tokenizer).__name__} knows"
        raise UserError(fault, where=first_names(without_tokens), remedy=remedy)
    audit.examples = len(examples)
    audit.tokens = sum(len(example.input_ids) + len(example.labels) for example in examples)
    audit.supervised_tokens = sum(len(example.labels) for example in examples)
    return examples, audit


class Seq2SeqLoss:
    """The loss of an encoder-decoder on examples of similar length (see `trainers.token_budget.StepLoss`).

    The budget counts the tokens of both sides, including padding.
    """

    def __init__(self, device: torch.device, pad_token_id: int) -> None:
        self.device, self.pad_token_id = device, pad_token_id

    def supervised(self, example: Example) -> int:
        return len(example.labels)

    def length(self, example: Example) -> int:
        return len(example.input_ids) + len(example.labels)

    def micro_batches(self, examples: Sequence[Example], budget: int) -> list[list[Example]]:
        groups: list[list[Example]] = []
        for example in sorted(examples, key=self.length):  # by length, so the newest example is the longest of its group
            if not groups or (len(groups[-1]) + 1) * self.length(example) > budget:
                groups.append([])
            groups[-1].append(example)
        return groups

    def context(self, model: torch.nn.Module) -> AbstractContextManager[None]:
        return nullcontext()

    def collate(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        """input_ids and attention_mask, (batch, longest question), and labels, (batch, longest answer)."""
        questions = [example.input_ids for example in examples]
        return {
            "input_ids": tensors.pad(questions, self.pad_token_id, self.device),
            "attention_mask": tensors.mask_of(questions, self.device),
            "labels": tensors.pad([example.labels for example in examples], -100, self.device),
        }

    def summed(self, model: torch.nn.Module, examples: Sequence[Example]) -> torch.Tensor:
        return self.token_losses(model, examples).nats.sum()

    def token_losses(self, model: torch.nn.Module, examples: Sequence[Example]) -> TokenLosses:
        batch = self.collate(examples)
        logits = model(**batch, use_cache=False).logits.float()
        kept = batch["labels"] != -100
        targets = batch["labels"][kept]
        losses = torch.nn.functional.cross_entropy(logits[kept], targets, reduction="none")
        return TokenLosses(losses, logits[kept].argmax(-1) == targets, kept.nonzero()[:, 0])


class Seq2SeqAnswerTrainer(TokenBudgetTrainer[Example], Seq2SeqTrainer):
    """Trains an encoder-decoder model, all of its weights or an adapter."""
