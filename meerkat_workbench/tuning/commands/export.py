"""`fine_tuning.py --export`: merges an adapter into its base, compares the two, writes a model card, and uploads the model."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meerkat_workbench.core import artifacts, console, files
from meerkat_workbench.core.errors import UserError
from meerkat_workbench.device import devices, hub
from meerkat_workbench.device.devices import ComputeDtype
from meerkat_workbench.tuning import llm, model_folders
from meerkat_workbench.tuning.artifacts import (
    DatasetManifest,
    ExportInputs,
    ExportRecord,
    Likeness,
    Split,
    TrainingResult,
)
from meerkat_workbench.tuning.data import dataset_folders, ledger
from meerkat_workbench.tuning.scoring import eval_samples
from meerkat_workbench.tuning.training import export

COMPARED_QUESTIONS = 32  # asked of the adapter and of the merged model, to compare their answers


@dataclass(frozen=True)
class ExportRequest:
    """What is exported, and to which folder.

    Attributes:
        adapter: the output folder of a training run.
        data: the prepared folder that it was trained on.
        evaluation: the folder of an evaluation of the adapter, for the model card.
        target: the folder of the exported model.
        repository: the Hub repository for an upload; empty for no upload.
    """

    adapter: Path
    data: Path
    evaluation: Path
    target: Path
    repository: str
    compute_dtype: ComputeDtype


def run(request: ExportRequest) -> None:
    """Export a model.

    Raises:
        UserError: the folders do not belong together, the target is not empty, or the upload fails.
        CheckFailedError: the merged model does not answer as the adapter does.
    """
    training, data = TrainingResult.require(request.adapter), DatasetManifest.require(request.data)
    target = request.target
    if not model_folders.holds_adapter(request.adapter):
        fault = "holds a whole model, not an adapter, so there is nothing to merge"
        raise UserError(fault, where=request.adapter, remedy="Use the folder itself.")
    if target.exists() and any(target.iterdir()):
        raise UserError("is not empty", where=f"--export {target}", remedy="Name a folder that does not exist yet.")
    hub.silence_libraries()
    token = hub.token() if request.repository else ""
    base = llm.locate(training.base_model)
    llm.check_base(training.inputs.base_weights, base, where=request.adapter, expected=training.base_model,
                   remedy="Restore the base of the training, or train again.")  # fmt: skip
    record = ledger.find_iteration(request.data, training.iteration)
    target.parent.mkdir(parents=True, exist_ok=True)
    written = target.with_name(f".{target.name}.writing")  # renamed after it is checked
    precision = devices.resolve_precision(request.compute_dtype, encoder_decoder=training.encoder_decoder)
    likeness = _Merge(request, training, base, precision).run(written)
    export.check(likeness, written, target)
    adapter = training.outputs.adapter
    scores = export.scores_of(request.evaluation, adapter)
    files.write_text(written / "README.md", export.model_card(training, data, record.sizes, scores, likeness))
    inputs = ExportInputs(training.inputs.splits, training.inputs.trained_on)
    artifacts.write(written / ExportRecord.FILE, ExportRecord(adapter=adapter, inputs=inputs, likeness=likeness))
    if target.exists():  # an empty folder
        target.rmdir()
    os.replace(written, target)
    if not scores:
        print(
            f"  {request.evaluation} holds no evaluation of this adapter, so the model card has no scores "
            "(EVALUATION_DIR names the folder)"
        )
    print(f"exported to {target}; use it with `transformers serve {target}` or pipeline('text-generation', '{target}')")
    if request.repository:
        print(f"uploaded to {hub.push(target, request.repository, token)}")


class _Merge:
    """Merges an adapter, and compares it with the merged model on the same questions."""

    def __init__(self, request: ExportRequest, training: TrainingResult, base: str, precision: devices.Precision) -> None:
        self.request, self.training, self.base, self.precision = request, training, base, precision
        self.tokenizer: Any = llm.load_tokenizer(str(request.adapter))
        split = dataset_folders.read_split(request.data, Split.EVAL)
        self.questions = eval_samples.questions(
            split, self.tokenizer, COMPARED_QUESTIONS, encoder_decoder=training.encoder_decoder
        )

    def run(self, written: Path) -> Likeness:
        """Write the merged model to the folder `written`, and compare its answers with the adapter's."""
        with console.working(f"asking the adapter {len(self.questions)} questions, in {self.precision}"):
            adapter_answers = self._answers(self._adapter_model())

        def choices(model: Any) -> list[int]:
            return eval_samples.next_choices(self.questions, adapter_answers, model.eval(), self.tokenizer)

        with console.working(f"merging into {self.request.target}"):
            unmerged_choices = export.merge(self.base, self.request.adapter, written, self.precision, choices)
        with console.working("asking the merged model"):
            model = llm.load_base(str(written), load_in_4bit=False, precision=self.precision)
            merged_answers, merged_choices = self._answers(model), choices(model)
        texts = [eval_samples.as_texts(self.questions, ids, self.tokenizer) for ids in (adapter_answers, merged_answers)]
        equal, overlap = export.answer_overlap(*texts)
        likeness = Likeness(
            answers=len(self.questions), equal=equal, word_overlap=overlap,
            merge=export.fraction_equal(unmerged_choices, merged_choices),
            as_trained=export.fraction_equal([token for ids in adapter_answers for token in ids], merged_choices),
            precision=self.precision,
        )  # fmt: skip
        trained_base = "the 4-bit base of its training" if self.training.load_in_4bit else "the base of its training"
        print(
            f"  the merged model predicts the same next token as the adapter on the unmerged base {100 * likeness.merge:.1f}% of "
            f"the time\n  and as the adapter on {trained_base} {100 * likeness.as_trained:.0f}% of the time; "
            f"{100 * equal:.0f}% of {len(self.questions)} answers are equal word for word, and answers share "
            f"{100 * overlap:.0f}% of their words"
        )
        return likeness

    def _adapter_model(self) -> Any:
        base = llm.load_base(self.base, load_in_4bit=self.training.load_in_4bit, precision=self.precision)
        return llm.load_adapter(base, self.request.adapter)

    def _answers(self, model: Any) -> list[tuple[int, ...]]:
        return eval_samples.greedy_answers(self.questions, model, self.tokenizer)
