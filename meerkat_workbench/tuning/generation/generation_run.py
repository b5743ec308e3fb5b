"""Gets every system's answers and their likelihoods: from the stores, the models of this machine, and servers."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from meerkat_workbench.core import artifacts
from meerkat_workbench.core.errors import UserError
from meerkat_workbench.core.jsonl_store import JsonlStore
from meerkat_workbench.device import devices
from meerkat_workbench.device.distributed import Processes
from meerkat_workbench.tuning.artifacts import BASE, GenerationRecord, Likelihood, LoadRecord, Prediction, Preference
from meerkat_workbench.tuning.generation import generator, likelihood, prediction_store, preference, prefixes
from meerkat_workbench.tuning.generation.choice_scoring import ChoicePlan
from meerkat_workbench.tuning.generation.decoding import Decoding
from meerkat_workbench.tuning.generation.endpoint import Endpoint, ServerDecoding
from meerkat_workbench.tuning.generation.likelihood import Text
from meerkat_workbench.tuning.generation.prediction_store import PredictionStore
from meerkat_workbench.tuning.generation.preference import PreferenceFacts, PreferenceItem, PreferencePlan, PreferenceScores
from meerkat_workbench.tuning.generation.questions import RETENTION, Question
from meerkat_workbench.tuning.generation.systems import Loading, System, load_models

ENGINE = "batches that rows leave when done, v1"  # part of the key of each answer
# the same for encoder-decoders; before, the base's rows of a mixed batch were answered by the adapter
ENCODER_DECODER_ENGINE = "transformers' generate, v1"
MAX_TEXTS = 5000  # texts held at once while likelihoods are measured; more would only take memory
Batching = Literal["auto", "mixed", "sequential"]  # values of BATCHING


@dataclass
class GenerationJob:
    """A system with its questions (in the same order for all systems) and the keys of its answers."""

    system: System
    questions: list[Question]
    keys: list[str]
    tokenizer: Any
    decoding: Decoding | ServerDecoding


@dataclass(frozen=True)
class GenerationOptions:
    """How models are asked.

    Attributes:
        batch_size: questions at a time; None finds a number that fits.
        batching: "mixed" if base and adapters answer in the same batches, "sequential" if one after the other, or "auto".
        continuous: whether waiting questions take the place of answered ones in a batch; None does so on a GPU.
        requests: requests at a time to a server.
    """

    batch_size: int | None
    batching: Batching
    continuous: bool | None
    requests: int
    loading: Loading


@dataclass(frozen=True)
class ScoredText:
    """A question, its answer, and what was measured; None if it was not.

    Attributes:
        loss: the base's mean loss on the answer, in nats per token.
        preference: whether the system finds the reference more likely than distractors.
    """

    question: Question
    prediction: Prediction
    loss: float | None
    preference: PreferenceScores | None = None


class GenerationRun:
    """One evaluation's answers; several processes share the work that is not stored yet.

    Args:
        output: the folder of the stores; answers of archived evaluations in it are reused.
        jobs: by system, the base first.
        preferences: the questions whose reference is compared with distractors.
        base: where the base is; unused if no model is loaded.
        choices: multiple-choice questions that the same loads of models score; None for none.
    """

    def __init__(
        self, output: Path, jobs: Mapping[str, GenerationJob], preferences: PreferencePlan, base: str, options: GenerationOptions,
        ranks: Processes, choices: ChoicePlan | None = None,
    ) -> None:  # fmt: skip
        self.multiple_choice = choices.start(output, ranks) if choices else None
        self.output, self.jobs, self.base, self.options, self.ranks = output, jobs, base, options, ranks
        self.preference_plan = preferences
        # what the processes of a killed run did is part of the record too
        begun = artifacts.read(GenerationRecord, path) if (path := output / GenerationRecord.FILE).is_file() else None
        self._generated, self._logit_change = 0, dict(begun.largest_logit_change) if begun else {}
        self._loads: list[LoadRecord] = list(begun.loads) if begun else []
        self._wanted = {key for job in jobs.values() for key in job.keys}
        if ranks.is_main:
            self._open()
            self._merge_parts()  # answers that the processes of a killed run stored
            adopted = sum(self.store.adopt(path, self._wanted) for path in prediction_store.archived_files(output))
            if adopted:
                print(f"  {adopted} answers are reused from an earlier evaluation of the same model and questions")
            text_keys = self._text_keys()
            for path in prediction_store.archived_files(output, Likelihood.FILE):
                self.likelihoods.adopt(path, text_keys)
            for path in prediction_store.archived_files(output, Preference.FILE):
                self.preferences.adopt(path, self.preference_plan.keys())
        ranks.wait()
        if not ranks.is_main:
            self._open()
        ranks.wait()  # all processes plan from the same files, so none may add to them before all have read them

    @property
    def base_system(self) -> System:
        return self.jobs[BASE].system

    @property
    def record(self) -> GenerationRecord:
        """How the answers were made, for the manifest."""
        identities = {name: job.system.identity for name, job in self.jobs.items()}
        return GenerationRecord(engine=ENGINE, generated=self._generated, identities=identities,
                                largest_logit_change=self._logit_change, loads=tuple(self._loads))  # fmt: skip

    def remove_progress(self) -> None:
        """Remove the record of an unfinished run, once it is part of the manifest."""
        (self.output / GenerationRecord.FILE).unlink(missing_ok=True)

    def _open(self) -> None:
        self.store = PredictionStore(self.output, self.ranks.rank)
        self.likelihoods: JsonlStore[Likelihood] = JsonlStore(
            self.output, Path(Likelihood.FILE).stem, Likelihood, self.ranks.rank
        )
        self.preferences: JsonlStore[Preference] = JsonlStore(
            self.output, Path(Preference.FILE).stem, Preference, self.ranks.rank
        )

    def _merge_parts(self) -> None:
        self.store.merge_parts(self._wanted)
        self.likelihoods.merge_parts(self._text_keys())
        self.preferences.merge_parts(self.preference_plan.keys())

    # --- stored answers

    def check_complete(self) -> None:
        """Raise RuntimeError unless every question has an answer from every system."""
        for name, job in self.jobs.items():
            prediction_store.check_complete(job.questions, job.keys, self.store, name)

    def answers(self, system: str) -> Iterator[ScoredText]:
        """Each question of a system with its scored answer."""
        job, preferences = self.jobs[system], self.preferences_of(system)
        for question, key, text in zip(job.questions, job.keys, self._answer_texts(job), strict=True):
            prediction = prediction_store.strip_thinking(self.store.records[key], question.prompt)
            loss = None if text is None else self._loss(text.key)
            yield ScoredText(question, prediction, loss, preferences.get(question.id))

    def preferences_of(self, system: str) -> dict[str, PreferenceScores]:
        """A system's preferences by id of the question, as far as they were measured; `ANSWER_ONLY` is a system too."""
        scores = {
            item.question.id: preference.scores_of(self.preferences.records.get(key))
            for key, item in self.preference_plan.of(system).items()
        }
        return {name: score for name, score in scores.items() if score is not None}

    def losses_of_references(self, system: str) -> dict[str, float]:
        """A system's mean loss per token on the reference of each retention question, by the question's id."""
        losses = {}
        for question, text in self._reference_texts(self.jobs[system]):
            loss = self._loss(text.key)
            if loss is not None:
                losses[question.id] = loss
        return losses

    def _loss(self, key: str) -> float | None:
        record = self.likelihoods.records.get(key)
        return None if record is None else record.loss

    def preference_facts(self) -> PreferenceFacts | None:
        """How preferences were measured; None if they were not."""
        items = list(self.preference_plan.of(BASE).values())
        return preference.facts_of(items, list(self.preferences_of(preference.ANSWER_ONLY).values())) if items else None

    # --- texts whose likelihood is measured

    def _text_keys(self) -> set[str]:
        references = (text for job in self.jobs.values() for _, text in self._reference_texts(job))
        return {text.key for text in itertools.chain(references, self._all_answer_texts())}

    def _reference_texts(self, job: GenerationJob) -> list[tuple[Question, Text]]:
        """References of the retention questions; their likelihood is measured under the system itself."""
        if not job.system.is_local:
            return []
        return [
            (question, self._text(question, question.reference, job)) for question in job.questions if question.split == RETENTION
        ]

    def _all_answer_texts(self) -> Iterator[Text]:
        return (text for job in self.jobs.values() for text in self._answer_texts(job) if text is not None)

    def _answer_texts(self, job: GenerationJob) -> Iterator[Text | None]:
        """For each answer, the text to measure under the base model; None if there is no answer or the base is remote."""
        if job.system.few_shot:  # it only describes an answer, and measuring it takes as long as generating a short one
            yield from itertools.repeat(None, len(job.keys))
            return
        base = self.jobs[BASE]
        for question, key in zip(base.questions, job.keys, strict=True):
            stored = self.store.records.get(key) if base.system.is_local and question.split != RETENTION else None
            answer = stored and prediction_store.strip_thinking(stored, question.prompt)
            yield self._text(question, answer.text, base) if answer and answer.text else None

    def _text(self, question: Question, text: str, job: GenerationJob) -> Text:
        return Text(likelihood.key_of(question.prompt, text, job.system.identity), question.prompt_ids, text)

    # --- generation

    def generate(self) -> None:
        """Generate every answer and measure every likelihood that is not stored yet."""
        # all processes plan from the same files, before any of them adds to its own
        planned = [job.system for job in self.jobs.values() if job.system.is_local and self._lacks_any(job)]
        if self.ranks.is_main:
            self._ask_servers()
        if planned:
            self._ask_models(planned)
        self.ranks.wait()
        if self.ranks.is_main:
            self._merge_parts()
            if self.multiple_choice:
                self.multiple_choice.merge_parts()

    def _lacks_any(self, job: GenerationJob) -> bool:
        """Whether a model of this machine lacks an answer or a likelihood."""
        texts = [text for _, text in self._reference_texts(job)]
        if self.multiple_choice and self.multiple_choice.lacks_any(job.system.name):
            return True
        if any(map(self.store.lacks, job.keys)) or any(self.likelihoods.lacks(text.key) for text in texts):
            return True
        if any(map(self.preferences.lacks, self._preference_items(job.system))):
            return True
        if job.system.name != BASE:
            return False
        # the base also measures the likelihood of every system's answers
        return any(map(self.store.lacks, self._wanted)) or any(
            self.likelihoods.lacks(text.key) for text in self._all_answer_texts()
        )

    def _ask_models(self, planned: Sequence[System]) -> None:
        """Ask the models of this machine; each is loaded once, the base and its adapters last."""
        for model, systems in load_models(planned, self.base, self.options.loading):
            self._answer(model, systems)
            if self.multiple_choice:
                self.multiple_choice.score(
                    model, [one.name for one in systems], {one.name: self.jobs[one.name].tokenizer for one in systems}
                )
            for system in systems:
                references = [text for _, text in self._reference_texts(self.jobs[system.name])]
                self._measure(model, system.adapter, functools.partial(iter, references), system)
                self._measure_preferences(model, system)
            if any(system.name == BASE for system in systems):
                self._exchange_answers()
                self._measure(model, None, self._all_answer_texts, self.jobs[BASE].system, self._losses_of_decoding())
            del model  # frees its memory before the next one is loaded

    def _exchange_answers(self) -> None:
        """Give every process the answers of all."""
        self.ranks.wait()
        if self.ranks.is_main:
            self._merge_parts()
        self.ranks.wait()
        if not self.ranks.is_main:
            self.store.reload()
            self.likelihoods.reload()

    def _answer(self, model: Any, systems: Sequence[System]) -> None:
        """Generate the answers that the systems of one loaded model lack."""
        lacking = [system for system in systems if any(map(self.store.lacks, self.jobs[system.name].keys))]
        for system in lacking:
            if system.adapter:
                question = self.jobs[system.name].questions[0]
                self._logit_change[system.name] = generator.check_adapter_has_effect(model, system.adapter, question)
        if use_mixed_batches(self.options.batching, model, len(lacking)):
            self._answer_together(model, lacking, mixed=True)
        else:
            for group in self._with_same_questions(lacking):
                self._answer_together(model, group, mixed=False)

    def _with_same_questions(self, systems: Sequence[System]) -> list[list[System]]:
        """The systems in groups that are asked with the same prompts, so that they take as many questions at a time."""
        groups: list[list[System]] = []
        for system in systems:
            asked = self.jobs[system.name].questions
            group = next((group for group in groups if self.jobs[group[0].name].questions == asked), None)
            if group is None:
                groups.append([system])
            else:
                group.append(system)
        return groups

    def _answer_together(self, model: Any, systems: Sequence[System], *, mixed: bool) -> None:
        """Generate the answers of systems of one loaded model with one batch size, in mixed batches or one after the other."""
        # the system with the longest prompts decides how many fit
        sample = max(
            (self.jobs[system.name] for system in systems), key=lambda job: max(len(q.prompt_ids) for q in job.questions)
        )
        # on a GPU a step costs nearly the same with fewer rows, so an empty place is a loss; on a CPU fewer rows cost less
        continuous = model.device.type == "cuda" if self.options.continuous is None else self.options.continuous
        continuous = continuous and prefixes.has_full_attention(model.config)
        size = self._batch_size(model, sample, len(systems) if mixed else 1)
        order, names = "mixed" if mixed else "sequential", tuple(system.name for system in systems)
        self._loads.append(LoadRecord(names, order, size, "continuous" if continuous else "static"))
        if self.ranks.is_main:
            artifacts.write(self.output / GenerationRecord.FILE, self.record)
            device = f"{devices.describe()}, in {devices.describe_precision(self.options.loading.precision)}"
            count = max(len(self.jobs[name].questions) for name in names)
            print(f"asking {', '.join(names)} {count} questions, {size} at a time, {order}, on {device}", flush=True)
        assert isinstance(sample.decoding, Decoding)
        answer_generator = generator.Generator(self.store, sample.tokenizer, sample.decoding, size, self.ranks.rank,
                                               self.ranks.count, refill=continuous)  # fmt: skip
        if mixed:
            keys = {system.name: self.jobs[system.name].keys for system in systems}
            adapters = {system.name: system.adapter for system in systems}
            questions = {system.name: self.jobs[system.name].questions for system in systems}
            self._generated += answer_generator.generate_mixed(model, adapters, questions, keys)
            return
        for system in systems:
            job = self.jobs[system.name]
            self._generated += answer_generator.generate_sequential(model, system.name, system.adapter, job.questions, job.keys)

    def _batch_size(self, model: Any, sample: GenerationJob, systems: int) -> int:
        """Questions at a time. All processes must use the same number, because each takes every n-th batch of one plan."""
        if self.options.batch_size is not None:
            return self.options.batch_size
        assert isinstance(sample.decoding, Decoding)
        size = generator.find_batch_size(model.device.type, sample.questions, sample.decoding, model.config, systems)
        return self.ranks.smallest(min(size, math.ceil(len(sample.questions) / self.ranks.count)))

    def _losses_of_decoding(self) -> dict[str, float]:
        """The base's loss on its own answers by the key of the text, as far as it is known from their decoding."""
        job = self.jobs[BASE]
        known = ((text, self.store.records[key]) for text, key in zip(self._answer_texts(job), job.keys, strict=True) if text)
        return {text.key: stored.loss for text, stored in known if stored.loss is not None and stored.text == text.text}

    def _measure(
        self, model: Any, adapter: str | None, texts: Callable[[], Iterable[Text]], system: System,
        known: Mapping[str, float] = MappingProxyType({}),
    ) -> None:  # fmt: skip
        """Store this process's part of the likelihoods that are lacking.

        Args:
            known: mean losses that need no measuring, by key.
        """
        # divided before any is stored, so that all processes divide the same list; by keys, because there may be many texts
        lacking = list(dict.fromkeys(text.key for text in texts() if self.likelihoods.lacks(text.key)))
        mine = set(lacking[self.ranks.rank :: self.ranks.count])
        self.likelihoods.add([Likelihood(key=key, loss=known[key]) for key in sorted(mine & known.keys())])
        mine -= known.keys()
        left = (text for text in texts() if text.key in mine)
        while batch := list(itertools.islice(left, MAX_TEXTS)):
            likelihood.measure(model, adapter, self.jobs[system.name].tokenizer, batch, self.likelihoods)

    def _preference_items(self, system: System) -> dict[str, PreferenceItem]:
        """The items that are measured under a system, by key; the base also measures the answer-only baseline."""
        blind = self.preference_plan.of(preference.ANSWER_ONLY) if system.name == BASE else {}
        return {**self.preference_plan.of(system.name), **blind}

    def _measure_preferences(self, model: Any, system: System) -> None:
        """Measure this process's part of a system's items."""
        items = self._preference_items(system)
        lacking = [key for key in items if self.preferences.lacks(key)]
        mine = {key: items[key] for key in lacking[self.ranks.rank :: self.ranks.count]}
        preference.measure(
            model, system.adapter, self.jobs[system.name].tokenizer, mine, self.preference_plan.references, self.preferences
        )

    def _ask_servers(self) -> None:
        for job in self.jobs.values():
            if job.system.is_local or not any(map(self.store.lacks, job.keys)):
                continue
            endpoint = Endpoint(job.system.source, job.system.served_as)
            print(f"asking {endpoint.address} for {job.system.name}: questions {endpoint.stay_or_leave()}", flush=True)
            assert isinstance(job.decoding, ServerDecoding)
            self._generated += generator.generate_remote(
                endpoint, job.system.name, job.questions, job.keys, self.store, job.decoding, self.options.requests
            )


def use_mixed_batches(batching: Batching, model: Any, systems: int) -> bool:
    """Whether base and adapters answer in the same batches; "auto" does so on a GPU, where more rows cost hardly more."""
    if systems < 2 or batching == "sequential" or not hasattr(model, "peft_config"):  # without adapters all rows are the base's
        return False
    if not generator.supports_mixed_batches(model):
        if batching == "mixed":
            fault = "an encoder-decoder or a weight-decomposed adapter (DoRA) cannot share a batch with other models"
            raise UserError(fault, where="BATCHING=mixed", remedy="Use BATCHING=auto.")
        return False
    return bool(batching == "mixed" or model.device.type == "cuda")
