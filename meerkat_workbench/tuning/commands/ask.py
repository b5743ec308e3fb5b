"""`evaluation.py --ask`: prints each model's answer to one question, with the prompt of the prepared data."""

from __future__ import annotations

from collections.abc import Sequence

from meerkat_workbench.core.errors import UserError
from meerkat_workbench.text import texts
from meerkat_workbench.tuning import chat
from meerkat_workbench.tuning.artifacts import Finish, Split
from meerkat_workbench.tuning.data import dataset_folders
from meerkat_workbench.tuning.generation import systems
from meerkat_workbench.tuning.generation.decoding import Decoder, PromptRow
from meerkat_workbench.tuning.generation.endpoint import Endpoint
from meerkat_workbench.tuning.generation.generator import active_adapter
from meerkat_workbench.tuning.generation.jobs import DecodingOptions
from meerkat_workbench.tuning.generation.questions import Question, with_question
from meerkat_workbench.tuning.generation.subject import EvaluationSubject
from meerkat_workbench.tuning.generation.systems import Loading, System


def ask(
    text: str, subject: EvaluationSubject, planned: Sequence[System], loading: Loading, decoding: DecodingOptions, *, remote: bool
) -> None:
    """Print every system's answer to a question.

    Args:
        remote: whether a server answers for base and tuned model.

    Raises:
        UserError: the question is blank or contains a control token, or a model may have learnt the fixed sets.
    """
    if texts.is_blank(text):
        raise UserError("needs a question", where="--ask", remedy='For example --ask "What is gout?".')
    planned = [
        system for system in planned if not system.few_shot
    ]  # a question of the user has no specialty to take examples from
    base = "" if remote else subject.locate_base(loading)
    subject.check_leaks(planned)
    record = with_question(dataset_folders.read_split(subject.data_folder, Split.HOLDOUT)[0], text.strip())

    def question_for(system: System, tokenizer: object) -> Question:
        [question] = systems.questions_for(system, {Split.HOLDOUT: [record]}, tokenizer, None, subject.data.system_message)
        return question

    for model, systems_of_model in systems.load_models(planned, base, loading):
        for system in systems_of_model:
            tokenizer = systems.load_tokenizer(system, subject.adapter)
            if token := chat.ControlTokens.of_tokenizer(tokenizer).in_text(text):
                fault = f"is a control token of {system.name}'s tokenizer"
                raise UserError(fault, where="--ask", item=token, remedy="Ask a question in plain text.")
            question = question_for(system, tokenizer)
            with active_adapter(model, system.adapter):
                [answer] = Decoder(model, decoding.on_this_machine(tokenizer)).decode(
                    [PromptRow(question.id, question.prompt_ids)]
                )
            _print(system, chat.decode_answer(tokenizer, answer.ids), answer.finish)
    for system in planned:
        if not system.is_local:
            reply = Endpoint(system.source, system.served_as).answer(question_for(system, None), decoding.on_server())
            _print(system, reply.text or reply.error, reply.finish)


def _print(system: System, answer: str, finish: Finish) -> None:
    print(f"\n{system.name}: {answer.strip()}{' …' if finish is Finish.LENGTH else ''}", flush=True)
