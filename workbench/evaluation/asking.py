"""Asking models every question: planned batches, answers stored as they come, several processes sharing the work."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch

from workbench import chat, console, devices
from workbench.errors import UserError
from workbench.evaluation.answers import Answer, AnswerStore, Question
from workbench.evaluation.decoding import BASE, Decoded, Decoder, Decoding, Row, shared_prefix
from workbench.evaluation.endpoint import Endpoint, ServerDecoding

GROUP = 4  # batches at most that are planned, answered and stored as one where waiting questions take free places


def plan_batches(questions: Sequence[Question], batch_size: int) -> list[list[int]]:
    """Places of each batch's questions, longest prompts first, so that memory runs out at once or never."""
    order = sorted(range(len(questions)), key=lambda i: (-len(questions[i].prompt_ids), questions[i].id))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def find_batch_size(device_type: str, questions: Sequence[Question], decoding: Decoding, config: Any, arms: int) -> int:
    """Questions at once, by the rows that fit: from free GPU memory and the size of the key-value cache, or 128 on a CPU.

    Args:
        arms: rows that each question has in a batch.
    """
    if device_type != "cuda":
        return max(1, 128 // arms)
    devices.free_memory()
    free, _ = torch.cuda.mem_get_info()
    longest = max(len(question.prompt_ids) for question in questions) + decoding.max_new_tokens
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    a_row = 4 * config.num_hidden_layers * heads * head_width * longest + 12 * config.vocab_size
    return int(max(1, min(512, 0.6 * free // a_row) // arms))


class AnswerProgress(console.Progress):
    """Answers done, tokens made, and the time that is left at most: answers under way may end at any token.

    Args:
        most_tokens: that an answer may have.
    """

    def __init__(self, total: int, name: str, most_tokens: int) -> None:
        super().__init__(name, total, "answers")
        self.tokens = self._of_ended = 0
        self.most_tokens = most_tokens

    def state(self) -> tuple[int, int, int]:
        """Where it stands, for `return_to`."""
        return self.done, self.tokens, self._of_ended

    def return_to(self, state: tuple[int, int, int]) -> None:
        """What was done since is done anew."""
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
        left = (self.total - self.done) * self.most_tokens - (self.tokens - self._of_ended)
        rate = self.tokens / self.elapsed
        most = console.duration(left / rate)
        return f"{self.name}: {self.done:,}/{self.total:,} answers, {rate:.0f} tokens/s, at most {most} left"


class Asker:
    """Puts questions to a model and stores what it says.

    Batches are planned from the whole list, and one that lacks any answer runs whole, so that a resumed run ends with the
    answers it would have ended with. On out-of-memory the rows at once are halved, for those after it too; what fails
    alone is stored as failed.

    Args:
        batch_size: questions at once.
        process, processes: of this one and of all that share the questions; each stores its own.
        refill: plan groups of several batches, in which waiting questions take the place of those that are answered.
    """

    def __init__(
        self, store: AnswerStore, tokenizer: Any, decoding: Decoding, batch_size: int, process: int = 0, processes: int = 1,
        *, refill: bool = False,
    ) -> None:  # fmt: skip
        self.store, self.tokenizer, self.decoding, self.batch_size = store, tokenizer, decoding, batch_size
        self.process, self.processes, self.refill = process, processes, refill
        self.most_rows = sys.maxsize  # lowered where memory ran out

    def ask_in_turn(self, model: Any, arm: str, adapter: str | None, questions: Sequence[Question], keys: Sequence[str]) -> int:
        """One arm's answers; `adapter` is switched on, or with None all are switched off. Returns how many were made."""
        todo = self._todo(questions, lambda i: [keys[i]])
        if not todo:
            return 0
        with speaking_as(model, adapter):
            decoder = Decoder(model, self.decoding, shared_prefix([question.prompt_ids for question in questions]))
            return self._run(decoder, todo, lambda i: [(arm, None, keys[i])], questions, f"{arm} answers", 1)

    def ask_together(
        self, model: Any, adapters: Mapping[str, str | None], questions: Sequence[Question], keys: Mapping[str, Sequence[str]]
    ) -> int:
        """Answers of several arms of one base, a batch holding rows of all.

        Args:
            adapters: arm to the adapter that answers for it, None for the base.
            keys: arm to the key of each question's answer.
        """
        todo = self._todo(questions, lambda i: [keys[arm][i] for arm in adapters])
        if not todo:
            return 0
        decoder = Decoder(model, self.decoding, shared_prefix([question.prompt_ids for question in questions]))
        rows = [(arm, adapter or BASE) for arm, adapter in adapters.items()]
        return self._run(
            decoder,
            todo,
            lambda i: [(arm, adapter, keys[arm][i]) for arm, adapter in rows],
            questions,
            f"{', '.join(adapters)} answers",
            len(adapters),
        )

    def _todo(self, questions: Sequence[Question], keys_of: Any) -> list[list[int]]:
        # several groups for each process, so that they end together and a kill costs little
        batches = len(questions) // (GROUP * self.processes * self.batch_size)
        group = self.batch_size * max(1, min(GROUP, batches) if self.refill else 1)
        todo = []
        for batch in plan_batches(questions, group)[self.process :: self.processes]:
            lacking = [i for i in batch if any(map(self.store.lacks, keys_of(i)))]
            # answers that failed are asked for by themselves: the batch they stood in was whole
            only_failed = all(key in self.store.records for i in lacking for key in keys_of(i))
            if lacking:
                todo.append(lacking if only_failed else batch)
        return todo

    def _run(
        self, decoder: Decoder, todo: list[list[int]], rows_of: Any, questions: Sequence[Question], name: str, of_each: int
    ) -> int:
        """Decode batches of places; `rows_of` a place gives (arm, adapter, key) of each of the `of_each` answers it needs."""
        self.most_rows = min(self.most_rows, self.batch_size * of_each)
        made = 0
        count = sum(len(rows_of(i)) for batch in todo for i in batch)
        with AnswerProgress(count, name, self.decoding.max_new_tokens) as progress:
            for batch in todo:
                wanted = [(i, *row) for i in batch for row in rows_of(i)]
                rows = [Row(questions[i].id, questions[i].prompt_ids, adapter) for i, _, adapter, _ in wanted]
                answers = []
                for (i, arm, _, key), (ids, finish, error) in zip(wanted, self._decode(decoder, rows, progress), strict=True):
                    text = "" if ids is None else chat.decode_answer(self.tokenizer, ids)
                    answers.append(Answer(key, questions[i].id, arm, text, finish, len(ids or ()), error))
                self.store.add(answers)
                made += len(answers)
        return made

    def _decode(self, decoder: Decoder, rows: Sequence[Row], progress: AnswerProgress) -> list[tuple[list[int] | None, str, str]]:
        at_once, before = min(self.most_rows, len(rows)), progress.state()
        try:
            found: list[Decoded] = decoder.decode(rows, at_once, refill=self.refill, made=progress.made, ended=progress.ended)
            return [(ids, finish, "") for ids, finish in found]
        except (torch.OutOfMemoryError, MemoryError) as error:
            said = f"out of memory: {error}"[:200]
        progress.return_to(before)  # all of these rows are answered anew
        # here the exception is gone, and with it what its frames held of the batch
        devices.free_memory()
        if at_once > 1:
            self.most_rows = (at_once + 1) // 2
            print(f"  out of memory at {at_once} rows, going on with {self.most_rows}", flush=True)
            return self._decode(decoder, rows, progress)
        if len(rows) == 1:
            return [(None, "failed", said)]
        half = (len(rows) + 1) // 2  # one of them is too long by itself
        return self._decode(decoder, rows[:half], progress) + self._decode(decoder, rows[half:], progress)


def ask_endpoint(
    endpoint: Endpoint, arm: str, questions: Sequence[Question], keys: Sequence[str], store: AnswerStore,
    decoding: ServerDecoding, at_once: int,
) -> int:  # fmt: skip
    """A server's answers, stored one by one as they come; returns how many were asked for."""
    todo = [i for i, key in enumerate(keys) if store.lacks(key)]
    with AnswerProgress(len(todo), f"{arm} answers", decoding.max_new_tokens) as progress:
        for number, (text, finish, tokens, error) in endpoint.answers([questions[i] for i in todo], decoding, at_once):
            i = todo[number]
            answer = Answer(keys[i], questions[i].id, arm, text, finish, tokens, error)
            store.add([answer])
            progress.made(tokens)
            progress.ended(tokens)
    failed = [store.records[keys[i]] for i in todo if store.records[keys[i]].finish == "failed"]
    if todo and all(map(store.lacks, keys)):
        raise UserError(f"{endpoint.address}: not one of {len(todo)} requests was answered. The last error: {failed[-1].error}")
    return len(todo)


def speaking_as(model: Any, adapter: str | None) -> Any:
    """A context in which the model answers through `adapter`; with None any adapters it has are switched off."""
    if not hasattr(model, "peft_config"):
        return nullcontext()
    if adapter is None:
        return model.disable_adapter()
    model.set_adapter(adapter)
    return nullcontext()


def can_mix(model: Any) -> bool:
    """Whether rows of one batch may be answered by different adapters; DoRA and adapters on bare parameters cannot."""
    alone = ("use_dora", "target_parameters")
    return not any(getattr(config, name, None) for config in getattr(model, "peft_config", {}).values() for name in alone)


def assert_adapter_works(model: Any, adapter: str, question: Question) -> float:
    """UserError unless the adapter changes what the model says; returns the largest change of a logit."""
    inputs = {"input_ids": torch.tensor([list(question.prompt_ids)]).to(model.device)}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = torch.tensor([[model.config.decoder_start_token_id]]).to(model.device)
    logits = []
    for name in (adapter, None):
        with torch.inference_mode(), devices.autocast(model), speaking_as(model, name):
            logits.append(model(**inputs).logits.float())
    change = float((logits[0] - logits[1]).abs().max())
    if not change > 0:
        raise UserError(f"the adapter {adapter!r} changes nothing: it and the base give equal logits. Train it, or name another.")
    return change
