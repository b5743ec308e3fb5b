"""Conversions of what earlier versions wrote to the present form. There are none elsewhere."""

from __future__ import annotations

from meerkat_workbench.core.artifacts import JsonObject

STAGE_OF_SCRIPT = {"dataset_preparation.py": "preparation", "fine_tuning.py": "training", "evaluation.py": "evaluation"}
UNKNOWN_TRAIN_SET = "unknown"  # in place of train sets that were not recorded


def stage_of(value: JsonObject) -> str:
    """The program that wrote a manifest: version 1 named the script in `made_by`."""
    return str(value.get("stage") or STAGE_OF_SCRIPT.get(str(value.get("made_by", "")), ""))


def manifest(value: JsonObject) -> JsonObject:
    """Version 1 named the script in `made_by`, and had the adapter's hash, an output of training, among the `inputs`."""
    if value.get("version", 1) >= 2:
        return value
    stage = stage_of(value)
    new = {name: item for name, item in value.items() if name != "made_by"} | {"version": 2, "stage": stage}
    if stage == "training":
        return _training(new)
    if stage == "evaluation":
        new.setdefault("compute_dtype", "bf16")  # the only one, before precision was recorded
        new["run"] = _generation_record(value.get("run", {}))
        new["corpus_bleu"] = {
            split: {
                "signature": bleu["signature"],
                "scores": {name: score for name, score in bleu.items() if name != "signature"},
            }
            for split, bleu in value.get("corpus_bleu", {}).items()
        }
    return new


def _training(value: JsonObject) -> JsonObject:
    inputs = dict(value["inputs"])
    adapter = inputs.pop("adapter", "")
    if "trained_on" not in inputs:  # version 1 did not record what INIT_ADAPTER had learnt
        earlier = [UNKNOWN_TRAIN_SET] if value.get("settings", {}).get("INIT_ADAPTER") else []
        inputs["trained_on"] = [*earlier, inputs["splits"]["train"]]
    return {**value, "inputs": inputs, "outputs": {"adapter": adapter}}


def _generation_record(run: JsonObject) -> JsonObject:
    """Version 1 recorded only the last load of a model."""
    new = {name: item for name, item in run.items() if name in ("engine", "generated", "arms", "largest_logit_change")}
    if "batch_size" in run:
        new["loads"] = [{"systems": list(run.get("arms", {})), "order": run["order"], "batch_size": run["batch_size"],
                         "batches": run.get("batches", "static")}]  # fmt: skip
    return {"engine": "unknown", **new}


def export_record(value: JsonObject) -> JsonObject:
    """Version 1 had the fields of the likeness among the others."""
    if value.get("version", 1) >= 2:
        return value
    names = ("answers", "equal", "word_overlap", "merge", "as_trained", "precision")
    new = {name: item for name, item in value.items() if name not in names}
    if all(name in value for name in names):
        new["likeness"] = {name: value[name] for name in names}
    inputs = dict(new.get("inputs", {}))
    if "splits" in inputs and "trained_on" not in inputs:
        inputs["trained_on"] = [inputs["splits"]["train"]]
    return {**new, "inputs": inputs, "version": 2}
