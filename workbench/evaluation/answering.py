"""Every answer of every arm, and how likely models find them: from the stores, the models of this machine, and servers."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench import devices, processes
from workbench.devices import Precision
from workbench.errors import UserError
from workbench.evaluation import answers, arms, asking, decoding, likelihood, retention
from workbench.evaluation.answers import Answer, AnswerStore, Question, Store
from workbench.evaluation.arms import BASE, Arm
from workbench.evaluation.endpoint import Endpoint
from workbench.evaluation.likelihood import Likelihood, Text

if TYPE_CHECKING:
    from accelerate import PartialState

LIKELIHOODS = "likelihoods"
TEXTS_AT_ONCE = 5000  # whose likelihood is measured; more would only take memory


@dataclass
class Asked:
    """An arm with its questions, in the same order for all, and the keys of their answers."""

    arm: Arm
    questions: list[Question]
    keys: list[str]
    tokenizer: Any
    decoding: Any

    @property
    def here(self) -> bool:
        """Whether this machine answers, and not a server."""
        return self.arm.kind != "endpoint"


@dataclass(frozen=True)
class How:
    """How models are asked.

    Args:
        batch_size: questions at once; None finds a number.
        order: of the arms of one base: "auto", "together" or "in turn".
        refill: whether waiting questions take the place of answered ones; None: on a GPU.
        requests: at a server at once.
        precision: in which models of this machine compute.
    """

    batch_size: int | None
    order: str
    refill: bool | None
    load_in_4bit: bool
    requests: int
    precision: Precision


class Answering:
    """One evaluation's answers; several processes share what is not stored yet.

    Args:
        output: the folder of the stores; archived evaluations below it are taken over from.
        asked: by arm, the base first.
        base: where the base is; unused where nothing is asked.
        here: this process and its kin.
    """

    def __init__(self, output: Path, asked: Mapping[str, Asked], base: str, how: How, here: PartialState) -> None:
        self.output, self.asked, self.base, self.how, self.here = output, asked, base, how, here
        self.record: dict[str, Any] = {"generated": 0, "arms": {name: one.arm.identity for name, one in asked.items()}}
        self._wanted = {key for one in asked.values() for key in one.keys}
        if here.is_main_process:
            self._open()
            self._gather()  # what the processes of a killed run had stored
            adopted = sum(self.store.adopt(path, self._wanted) for path in answers.archived(output))
            if adopted:
                print(f"  {adopted} answers are taken over from an earlier evaluation of the same model and questions")
            wanted = self._keys_of_texts()
            for path in answers.archived(output, LIKELIHOODS):
                self.likelihoods.adopt(path, wanted)
        here.wait_for_everyone()
        if not here.is_main_process:
            self._open()
        here.wait_for_everyone()  # before the first process adds to what the others have to plan by

    def _open(self) -> None:
        self.store = AnswerStore(self.output, self.here.process_index)
        self.likelihoods: Store[Likelihood] = Store(self.output, LIKELIHOODS, Likelihood, self.here.process_index)

    def _gather(self) -> None:
        self.store.gather_parts(self._wanted)
        self.likelihoods.gather_parts(self._keys_of_texts())

    def ask(self) -> None:
        """Make what is not stored yet."""
        # planned by all from the same files, before any of them adds to its own
        planned = [one.arm for one in self.asked.values() if one.here and self._needs(one)]
        if self.here.is_main_process:
            self._ask_servers()
        if planned:
            self._ask_models(planned)
        self.here.wait_for_everyone()
        if self.here.is_main_process:
            self._gather()

    def check_complete(self) -> None:
        for name, one in self.asked.items():
            answers.check_complete(one.questions, one.keys, self.store, name)

    def answers(self, arm: str) -> Iterator[tuple[Question, Answer, float | None]]:
        """Of each question of an arm: its answer, and the base's mean loss a token on it in nats, None where there is none."""
        one = self.asked[arm]
        for question, key, text in zip(one.questions, one.keys, self._answer_texts(one), strict=True):
            answer = answers.without_thinking(self.store.records[key], question.prompt)
            yield question, answer, None if text is None else self._loss(text.key)

    def losses_of_references(self, arm: str) -> dict[str, float]:
        """An arm's mean loss a token on the reference of each retention question, by the question's id."""
        found = {}
        for question, text in self._reference_texts(self.asked[arm]):
            loss = self._loss(text.key)
            if loss is not None:
                found[question.id] = loss
        return found

    def _loss(self, key: str) -> float | None:
        record = self.likelihoods.records.get(key)
        return None if record is None else record.loss

    def _needs(self, one: Asked) -> bool:
        """Whether a model of this machine has anything left to say."""
        texts = [text for _, text in self._reference_texts(one)]
        if any(map(self.store.lacks, one.keys)) or any(self.likelihoods.lacks(text.key) for text in texts):
            return True
        if one.arm.name != BASE:
            return False
        # it also judges how likely every arm's answers are
        return any(map(self.store.lacks, self._wanted)) or any(
            self.likelihoods.lacks(text.key) for text in self._all_answer_texts()
        )

    def _keys_of_texts(self) -> set[str]:
        references = (text for one in self.asked.values() for _, text in self._reference_texts(one))
        return {text.key for text in itertools.chain(references, self._all_answer_texts())}

    def _reference_texts(self, one: Asked) -> list[tuple[Question, Text]]:
        """References of the retention questions, whose likelihood is asked of the arm itself."""
        if not one.here:
            return []
        return [
            (question, self._text(question, question.reference, one))
            for question in one.questions
            if question.split == retention.SPLIT
        ]

    def _all_answer_texts(self) -> Iterator[Text]:
        return (text for one in self.asked.values() for text in self._answer_texts(one) if text is not None)

    def _answer_texts(self, one: Asked) -> Iterator[Text | None]:
        """Of each answer, the text whose likelihood is asked of the base; None where there is none to ask or none who could."""
        base = self.asked[BASE]
        for question, key in zip(base.questions, one.keys, strict=True):
            stored = self.store.records.get(key) if base.here and question.split != retention.SPLIT else None
            answer = stored and answers.without_thinking(stored, question.prompt)
            yield self._text(question, answer.text, base) if answer and answer.text else None

    def _text(self, question: Question, text: str, one: Asked) -> Text:
        return Text(likelihood.key_of(question.prompt, text, one.arm.identity), question.prompt_ids, text)

    def _ask_models(self, planned: Sequence[Arm]) -> None:
        """The models of this machine, each loaded once, the base and its adapters last."""
        how = self.how
        for model, of_model in arms.loads(planned, self.base, load_in_4bit=how.load_in_4bit, precision=how.precision):
            self._ask_model(model, of_model)
            for arm in of_model:
                references = [text for _, text in self._reference_texts(self.asked[arm.name])]
                self._measure(model, arm.adapter, functools.partial(iter, references), arm)
            if any(arm.name == BASE for arm in of_model):
                self.here.wait_for_everyone()
                if self.here.is_main_process:
                    self._gather()
                self.here.wait_for_everyone()
                if not self.here.is_main_process:
                    self.store.read_again()
                    self.likelihoods.read_again()
                self._measure(model, None, self._all_answer_texts, self.asked[BASE].arm)
            del model  # so that it is gone before the next one is loaded

    def _ask_model(self, model: Any, of_model: Sequence[Arm]) -> None:
        unanswered = [arm for arm in of_model if any(map(self.store.lacks, self.asked[arm.name].keys))]
        if not unanswered:
            return
        sample = self.asked[unanswered[0].name]
        for arm in unanswered:
            if arm.adapter:
                change = asking.assert_adapter_works(model, arm.adapter, self.asked[arm.name].questions[0])
                self.record.setdefault("largest_logit_change", {})[arm.name] = change
        alike = [arm for arm in unanswered if self.asked[arm.name].questions == sample.questions]
        together = together_wins(self.how.order, model, len(alike))
        size = self.how.batch_size
        if size is None:
            rows = len(alike) if together else 1
            found = asking.find_batch_size(model.device.type, sample.questions, sample.decoding, model.config, rows)
            # the same plan in all, whatever is free on each: they take turns at its batches
            size = processes.least(self.here, min(found, math.ceil(len(sample.questions) / self.here.num_processes)))
        order = self.record["order"] = "together" if together else "in turn"
        # a GPU's step costs nearly the same for more rows, so that a free place is a loss; a CPU's costs less for fewer
        refill = model.device.type == "cuda" if self.how.refill is None else self.how.refill
        refill = refill and decoding.sees_everything(model.config)
        self.record["batch_size"], self.record["batches"] = size, "refilled" if refill else "static"
        if self.here.is_main_process:
            device = f"{devices.describe()}, in {devices.in_words(self.how.precision)}"
            print(f"asking {len(sample.questions)} questions, {size} at a time, {order}, on {device}", flush=True)
        asker = asking.Asker(
            self.store, sample.tokenizer, sample.decoding, size, self.here.process_index, self.here.num_processes, refill=refill
        )
        if together:
            keys = {arm.name: self.asked[arm.name].keys for arm in alike}
            adapters = {arm.name: arm.adapter for arm in alike}
            self.record["generated"] += asker.ask_together(model, adapters, sample.questions, keys)
        for arm in unanswered:
            if not together or arm not in alike:
                one = self.asked[arm.name]
                self.record["generated"] += asker.ask_in_turn(model, arm.name, arm.adapter, one.questions, one.keys)

    def _measure(self, model: Any, adapter: str | None, texts: Callable[[], Iterable[Text]], arm: Arm) -> None:
        """This process's share of the texts whose likelihood is not stored yet."""
        # shared out before any is stored, so that all processes count alike; keys first, since the texts may be many
        lacking = list(dict.fromkeys(text.key for text in texts() if self.likelihoods.lacks(text.key)))
        mine = set(lacking[self.here.process_index :: self.here.num_processes])
        left = (text for text in texts() if text.key in mine)
        while batch := list(itertools.islice(left, TEXTS_AT_ONCE)):
            likelihood.measure(model, adapter, self.asked[arm.name].tokenizer, batch, self.likelihoods)

    def _ask_servers(self) -> None:
        for one in self.asked.values():
            if one.here or not any(map(self.store.lacks, one.keys)):
                continue
            endpoint = Endpoint(one.arm.source, one.arm.served_as)
            print(f"asking {endpoint.address} for {one.arm.name}: questions {endpoint.stay_or_leave()}", flush=True)
            self.record["generated"] += asking.ask_endpoint(
                endpoint, one.arm.name, one.questions, one.keys, self.store, one.decoding, self.how.requests
            )


def together_wins(order: str, model: Any, arms_here: int) -> bool:
    """Whether base and adapters answer in the same batches: on a GPU, where a step costs the same for more rows."""
    if arms_here < 2 or order == "in turn":
        return False
    if not asking.can_mix(model):
        if order == "together":
            raise UserError("ARMS=together: a weight-decomposed adapter (DoRA) cannot answer beside others. Use ARMS=auto.")
        return False
    return bool(order == "together" or model.device.type == "cuda")
