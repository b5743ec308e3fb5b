"""Asking models every question: planned batches, answers stored as they come, several processes sharing the work."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from meerkat_workbench.core import console
from meerkat_workbench.core.errors import UserError
from meerkat_workbench.device import devices
from meerkat_workbench.tuning import chat
from meerkat_workbench.tuning.artifacts import Finish, Prediction
from meerkat_workbench.tuning.generation.decoding import NO_ADAPTER, Decoded, Decoder, Decoding, PromptRow, shared_prefix
from meerkat_workbench.tuning.generation.endpoint import Endpoint, ServerDecoding
from meerkat_workbench.tuning.generation.prediction_store import PredictionStore
from meerkat_workbench.tuning.generation.questions import Question

MAX_BATCHES_IN_GROUP = 4  # batches that are planned, answered and stored as one where waiting questions take free places
ROWS_ON_CPU, MAX_ROWS = 128, 512
FREE_MEMORY_USED = 0.6  # fraction of the free GPU memory that a batch may take


def plan_batches(questions: Sequence[Question], batch_size: int) -> list[list[int]]:
    """Indices of each batch's questions, longest prompts first, so that memory runs out at once or never."""
    order = sorted(range(len(questions)), key=lambda i: (-len(questions[i].prompt_ids), questions[i].id))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def find_batch_size(device_type: str, questions: Sequence[Question], decoding: Decoding, config: Any, systems: int) -> int:
    """Questions at once, by the rows that fit: from free GPU memory and the size of the key-value cache, or 128 rows on a CPU.

    Args:
        systems: rows that each question has in a batch.
    """
    if device_type != "cuda":
        return max(1, ROWS_ON_CPU // systems)
    devices.free_memory()
    free, _ = torch.cuda.mem_get_info()
    longest = max(len(question.prompt_ids) for question in questions) + decoding.max_new_tokens
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    bytes_per_row = 4 * config.num_hidden_layers * heads * head_width * longest + 12 * config.vocab_size
    return int(max(1, min(MAX_ROWS, FREE_MEMORY_USED * free // bytes_per_row) // systems))


class GenerationProgress(console.Progress):
    """Answers done, tokens made, and the time that is left at most: answers under way may end at any token.

    Args:
        max_tokens: that an answer may have.
    """

    def __init__(self, total: int, name: str, max_tokens: int) -> None:
        super().__init__(name, total, "answers")
        self.tokens = self._of_ended = 0
        self.max_tokens = max_tokens

    def state(self) -> tuple[int, int, int]:
        """Where it stands, for `return_to`."""
        return self.done, self.tokens, self._of_ended

    def return_to(self, state: tuple[int, int, int]) -> None:
        """Forget what was done since; it is done anew."""
        self.back_to(state[0])
        self.tokens, self._of_ended = state[1:]

    def made(self, tokens: int) -> None:
        """So many more tokens, of whatever answers."""
        self.tokens += tokens

    def ended(self, tokens: int) -> None:
        """One more answer, of so many tokens."""
        self._of_ended += tokens
        self.advance(1, f"{self.tokens / self.elapsed:.0f} tokens/s")

    def line(self) -> str:
        if not self.tokens:
            return super().line()
        left = (self.total - self.done) * self.max_tokens - (self.tokens - self._of_ended)
        rate = self.tokens / self.elapsed
        return f"{self.name}: {self.done:,}/{self.total:,} answers, {rate:.0f} tokens/s, at most {console.duration(left / rate)} left"


@dataclass(frozen=True)
class AnswerRequest:
    """An answer that is wanted: the index of its question, the system, its adapter in the batch, and the key of the answer."""

    question: int
    system: str
    adapter: str | None
    key: str


class Generator:
    """Puts questions to a model and stores what it answers.

    Batches are planned from the whole list, and one that lacks any answer runs whole, so that a resumed run ends with the answers that it
    would have had. On out-of-memory the rows at once are halved, for those after it too; what fails alone is stored as failed.

    Args:
        batch_size: questions at once.
        rank, ranks: of this process, and the number of those that share the questions; each stores its own answers.
        refill: plan groups of several batches, in which waiting questions take the place of those that are answered.
    """

    def __init__(
        self, store: PredictionStore, tokenizer: Any, decoding: Decoding, batch_size: int, rank: int = 0, ranks: int = 1,
        *, refill: bool = False,
    ) -> None:  # fmt: skip
        self.store, self.tokenizer, self.decoding, self.batch_size = store, tokenizer, decoding, batch_size
        self.rank, self.ranks, self.refill = rank, ranks, refill
        self.max_rows = sys.maxsize  # lowered where memory ran out

    def generate_sequential(
        self, model: Any, system: str, adapter: str | None, questions: Sequence[Question], keys: Sequence[str]
    ) -> int:
        """One system's answers; `adapter` is switched on, or with None all are switched off. Returns how many were made."""
        with active_adapter(model, adapter):
            return self._generate(model, questions, f"{system} answers", lambda i: [AnswerRequest(i, system, None, keys[i])])

    def generate_mixed(
        self, model: Any, adapters: Mapping[str, str | None], questions: Sequence[Question], keys: Mapping[str, Sequence[str]]
    ) -> int:
        """Answers of several systems of one base, a batch holding rows of all.

        Args:
            adapters: system to the adapter that answers for it, None for the base.
            keys: system to the key of each question's answer.
        """
        rows = [(system, adapter or NO_ADAPTER) for system, adapter in adapters.items()]

        def requests(i: int) -> list[AnswerRequest]:
            return [AnswerRequest(i, system, adapter, keys[system][i]) for system, adapter in rows]

        return self._generate(model, questions, f"{', '.join(adapters)} answers", requests)

    def _generate(
        self, model: Any, questions: Sequence[Question], name: str, requests_of: Callable[[int], list[AnswerRequest]]
    ) -> int:
        """Answer what is lacking; `requests_of` gives the answers that a question needs. Returns how many were made."""
        todo = self._lacking_batches(questions, requests_of)
        if not todo:
            return 0
        decoder = Decoder(model, self.decoding, shared_prefix([question.prompt_ids for question in questions]))
        self.max_rows = min(self.max_rows, self.batch_size * len(requests_of(todo[0][0])))
        wanted = [[request for i in batch for request in requests_of(i)] for batch in todo]
        made = 0
        with GenerationProgress(sum(map(len, wanted)), name, self.decoding.max_new_tokens) as progress:
            for batch in wanted:
                rows = [PromptRow(questions[one.question].id, questions[one.question].prompt_ids, one.adapter) for one in batch]
                answers = [
                    self._prediction(request, questions[request.question], answer)
                    for request, answer in zip(batch, self._decode(decoder, rows, progress), strict=True)
                ]
                self.store.add(answers)
                made += len(answers)
        return made

    def _lacking_batches(
        self, questions: Sequence[Question], requests_of: Callable[[int], list[AnswerRequest]]
    ) -> list[list[int]]:
        """This process's batches that lack an answer, as indices of questions."""
        # several groups for each process, so that they end together and a kill costs little
        batches = len(questions) // (MAX_BATCHES_IN_GROUP * self.ranks * self.batch_size)
        group = self.batch_size * max(1, min(MAX_BATCHES_IN_GROUP, batches) if self.refill else 1)
        todo = []
        for batch in plan_batches(questions, group)[self.rank :: self.ranks]:
            lacking = [i for i in batch if any(self.store.lacks(request.key) for request in requests_of(i))]
            # answers that failed are asked for by themselves: the batch that they belonged to was complete
            only_failed = all(request.key in self.store.records for i in lacking for request in requests_of(i))
            if lacking:
                todo.append(lacking if only_failed else batch)
        return todo

    def _prediction(self, request: AnswerRequest, question: Question, answer: Decoded | str) -> Prediction:
        """What is stored; `answer` is the error of an answer that failed."""
        if isinstance(answer, str):
            return Prediction(key=request.key, id=question.id, system=request.system, text="", finish=Finish.FAILED, tokens=0,
                              error=answer)  # fmt: skip
        text = chat.decode_answer(self.tokenizer, answer.ids)
        return Prediction(key=request.key, id=question.id, system=request.system, text=text, finish=answer.finish,
                          tokens=len(answer.ids))  # fmt: skip

    def _decode(self, decoder: Decoder, rows: Sequence[PromptRow], progress: GenerationProgress) -> Sequence[Decoded | str]:
        """Answers in the order of `rows`, or the error of one that failed."""
        before = progress.state()

        def attempt(at_once: int) -> list[Decoded]:
            return decoder.decode(rows, at_once, refill=self.refill, on_tokens=progress.made, on_answer=progress.ended)

        def halved(at_once: int) -> None:
            print(f"  out of memory at {self.max_rows} rows, going on with {at_once}", flush=True)
            self.max_rows = at_once
            progress.return_to(before)  # all of these rows are answered anew

        try:
            return devices.halve_on_oom(min(self.max_rows, len(rows)), attempt, halved=halved)
        except devices.MemoryExhaustedError as error:
            said = str(error)
        progress.return_to(before)
        if len(rows) == 1:
            return [said]
        half = (len(rows) + 1) // 2  # one of them is too long by itself
        return [*self._decode(decoder, rows[:half], progress), *self._decode(decoder, rows[half:], progress)]


def generate_remote(
    endpoint: Endpoint, system: str, questions: Sequence[Question], keys: Sequence[str], store: PredictionStore,
    decoding: ServerDecoding, requests: int,
) -> int:  # fmt: skip
    """A server's answers, stored one by one as they come; returns how many were asked for.

    Args:
        requests: under way at once.
    """
    todo = [i for i, key in enumerate(keys) if store.lacks(key)]
    with GenerationProgress(len(todo), f"{system} answers", decoding.max_new_tokens) as progress:
        for number, reply in endpoint.answers([questions[i] for i in todo], decoding, requests):
            i = todo[number]
            store.add([Prediction(key=keys[i], id=questions[i].id, system=system, text=reply.text, finish=reply.finish,
                                  tokens=reply.tokens, error=reply.error)])  # fmt: skip
            progress.made(reply.tokens)
            progress.ended(reply.tokens)
    failed = [store.records[keys[i]] for i in todo if store.records[keys[i]].finish == Finish.FAILED]
    if todo and all(map(store.lacks, keys)):
        fault = f"not one of {len(todo)} requests was answered"
        raise UserError(fault, where=endpoint.address, remedy=f"The last error: {failed[-1].error}")
    return len(todo)


def active_adapter(model: Any, adapter: str | None) -> contextlib.AbstractContextManager[Any]:
    """A context in which the model answers through `adapter`; with None any adapters that it has are switched off."""
    if not hasattr(model, "peft_config"):
        return nullcontext()
    if adapter is None:
        disabled: contextlib.AbstractContextManager[Any] = model.disable_adapter()
        return disabled
    model.set_adapter(adapter)
    return nullcontext()


def supports_mixed_batches(model: Any) -> bool:
    """Whether rows of one batch may be answered by different adapters; DoRA and adapters on bare parameters cannot."""
    alone = ("use_dora", "target_parameters")
    return not any(getattr(config, name, None) for config in getattr(model, "peft_config", {}).values() for name in alone)


def check_adapter_has_effect(model: Any, adapter: str, question: Question) -> float:
    """UserError unless the adapter changes what the model says; returns the largest change of a logit."""
    inputs = {"input_ids": torch.tensor([list(question.prompt_ids)]).to(model.device)}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = torch.tensor([[model.config.decoder_start_token_id]]).to(model.device)
    logits = []
    for name in (adapter, None):
        with torch.inference_mode(), devices.autocast(model), active_adapter(model, name):
            logits.append(model(**inputs).logits.float())
    change = float((logits[0] - logits[1]).abs().max())
    if not change > 0:
        fault = f"the adapter {adapter!r} changes nothing: it and the base give equal logits"
        raise UserError(fault, item=adapter, remedy="Train it, or name another.")
    return change
