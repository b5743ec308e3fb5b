"""An adapter and its base as one model, with what makes it usable elsewhere: template, stop ids, model card."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from workbench import devices, files, manifest, models
from workbench.devices import Precision
from workbench.errors import CheckFailedError, UserError

LICENCES = {models.MEERKAT: "cc-by-nc-4.0"}
# shares of equal choices below which an export has failed. Rounding tips ties: merging itself tips hardly any, and leaving 4-bit weights
# for whole ones more (what was measured: EXPERIMENTS.md, 2026-11-26)
LEAST_MERGE, LEAST_AS_TRAINED = 0.9, 0.5
CARD_METRICS = ("ROUGE-L", "METEOR", "bertscore_f1", "token_f1", "factual_exact_match", "medical_token_f1")


def merge(base: str, adapter: Path, target: Path, precision: Precision, look: Callable[[Any], list[int]]) -> list[int]:
    """Write base plus adapter to the folder `target` as an ordinary Hugging Face model; what stands there goes.

    Never into 4-bit weights: rounding the sum anew would lose part of what was learnt. The base is therefore read whole, which for 8B
    takes 16 GB of memory and of disk in bf16 and fp16, and 32 in fp32.

    Args:
        precision: in which weights are added and stored.
        look: called with the base under its adapter, before they are merged; what it returns is returned.
    """
    model: Any = models.load_adapter(models.load_base(base, load_in_4bit=False, precision=precision), adapter)
    seen = look(model)
    if hasattr(model.get_input_embeddings(), "base_layer"):
        untie(models.base_of(model))
    merged: Any = model.merge_and_unload(safe_merge=True)
    tokenizer = models.load_tokenizer(str(adapter))
    files.remove(target)
    merged.save_pretrained(str(target), safe_serialization=True)
    tokenizer.save_pretrained(str(target))
    models.write_generation_config(target, tokenizer)
    del merged, model
    devices.free_memory()
    return seen


def untie(model: Any) -> None:
    """Give the head weights of its own where it shares the embeddings': an adapter on these is none on the head, and merged into shared
    weights would change it as well."""
    import torch

    if not models.text_config(model.config).tie_word_embeddings:
        return
    head = model.get_output_embeddings()
    head.weight = torch.nn.Parameter(head.weight.detach().clone(), requires_grad=False)
    model.config.tie_word_embeddings = models.text_config(model.config).tie_word_embeddings = False


def share_equal(one: Sequence[int], other: Sequence[int]) -> float:
    """Share of places at which two lists of tokens agree; 1 where there are none."""
    return sum(a == b for a, b in zip(one, other, strict=True)) / len(one) if one else 1.0


def check(likeness: Mapping[str, float], written: Path, target: Path) -> None:
    """Refuse an export that does not answer as the adapter does: it is kept beside `target`, under a name that says so.

    Raises:
        CheckFailedError: `merge` is below LEAST_MERGE, or `as_trained` below LEAST_AS_TRAINED.
    """
    if likeness["merge"] >= LEAST_MERGE and likeness["as_trained"] >= LEAST_AS_TRAINED:
        return
    aside = target.with_name(f"{target.name}.failed")
    files.remove(aside)
    os.replace(written, aside)
    raise CheckFailedError(
        f"the merged model does not answer as the adapter does: of the tokens of its answers it would choose "
        f"{100 * likeness['merge']:.0f}% as the adapter on the same base does (at least {100 * LEAST_MERGE:.0f}% are wanted), and "
        f"{100 * likeness['as_trained']:.0f}% as the adapter did on the base as it was trained (at least {100 * LEAST_AS_TRAINED:.0f}%). "
        f"It lies in {aside}; nothing was uploaded. Use the adapter itself, or try COMPUTE_DTYPE=fp32."
    )


def agreement(before: Sequence[str], after: Sequence[str]) -> dict[str, float]:
    """How alike two lists of answers to the same questions are: share of equal ones, and mean overlap of their words."""
    same = sum(a == b for a, b in zip(before, after, strict=True)) / len(before)
    overlap = 0.0
    for one, other in zip(before, after, strict=True):
        left, right = set(one.split()), set(other.split())
        overlap += len(left & right) / max(1, len(left | right))
    return {"answers": len(before), "equal": round(same, 4), "word_overlap": round(overlap / len(before), 4)}


def model_card(
    training: Mapping[str, Any], data: Mapping[str, Any], sizes: Mapping[str, Mapping[str, int]],
    scores: Sequence[Mapping[str, str]], likeness: Mapping[str, Any],
) -> str:  # fmt: skip
    """README.md of an exported model, from the manifests.

    Args:
        training, data: manifests of the adapter and of the prepared data.
        sizes: split to specialty to records.
        scores: rows of model_comparison.csv of the holdout, none where it was not evaluated.
        likeness: what `agreement` found between adapter and merged model, `as_trained` (see `check`), and `precision`.
    """
    settings = training["settings"]
    base = settings["MODEL_NAME"]
    licence = LICENCES.get(base, "other")
    totals = {split: sum(counts.values()) for split, counts in sizes.items()}
    specialties = sorted(sizes["train"])
    lines = [
        "---",
        f"base_model: {base}",
        f"license: {licence}",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        "tags: [medical, qlora, meerkat-workbench]",
        "---",
        "",
        f"# {base}, tuned on {len(specialties)} medical specialties (iteration {training['iteration']})",
        "",
        "For research and model development. Not a medical device, and no source of medical advice.",
        "",
        "## Data",
        f"{totals['train']:,} question-answer pairs in training, {totals['eval']:,} to steer, {totals['holdout']:,} held out.",
        f"Specialties: {', '.join(name.replace('_', ' ') for name in specialties)}.",
        f"Data fingerprint `{data['fingerprint'][:16]}`; hashes of the splits: "
        + ", ".join(f"{name} `{value[:12]}`" for name, value in training["inputs"]["splits"].items()) + ".",
        f"System message: {data['settings']['SYSTEM_MESSAGE'] or '(none)'}",
        "",
        "## Training",
        f"QLoRA (NF4 base: {settings['LOAD_IN_4BIT']}), rank {settings['LORA_RANK']}, alpha {settings['LORA_ALPHA']}, on "
        f"{', '.join(settings['LORA_TARGET_MODULES'])}; learning rate {settings['LEARNING_RATE']:g}, "
        f"{settings['NUM_EPOCHS']:g} epochs, {settings['BATCH_SIZE'] * settings['GRADIENT_ACCUMULATION_STEPS']} examples a "
        f"step and process, seed {settings['RANDOM_SEED']}; kept at step {training['kept']['step']} "
        f"(eval loss {training['kept']['loss']:.3f}, before training {training['before']['loss']:.3f}). "
        f"Device: {training['device']}. Libraries: "
        + ", ".join(f"{name} {training['libraries'][name]}" for name in ("torch", "transformers", "trl", "peft")) + ".",
        "",
        "## Scores",
    ]  # fmt: skip
    if scores:
        lines += [
            f"On {scores[0]['n']} held-out questions, base against tuned (the adapter on the base as it was trained), paired:",
            "",
            "| Metric | base | tuned | difference | 95% interval | floor |",
            "|---|---|---|---|---|---|",
        ]
        lines += [
            f"| {row['metric']} | {float(row['base']):.3f} | {float(row['tuned']):.3f} | {float(row['difference']):+.3f} "
            f"| {float(row['ci_low']):+.3f} to {float(row['ci_high']):+.3f} | {float(row['floor_tuned']):.3f} |"
            for row in scores
            if row["metric"] in CARD_METRICS and not row["missing"]
        ]
        lines += ["", "The floor is what answers handed to other questions of the same specialty score."]
    else:
        lines += ["This adapter was not evaluated before it was exported."]
    lines += [
        "",
        f"Merged in {likeness['precision']}. On {likeness['answers']:.0f} questions {100 * likeness['equal']:.0f}% of its answers are those of "
        f"the adapter on its training base, word for word; the words overlap by {100 * likeness['word_overlap']:.0f}%. "
        f"Of the tokens of these answers it would choose {100 * likeness['as_trained']:.0f}% alike.",
        "",
    ]
    return "\n".join(lines)


def scores_of(evaluation: Path, adapter_hash: str) -> list[dict[str, str]]:
    """Holdout rows of an evaluation's model_comparison.csv, if it is of this very adapter."""
    import csv

    done = manifest.read(evaluation) if evaluation.is_dir() else None
    if done is None or done["inputs"].get("adapter") != adapter_hash:
        return []
    with open(evaluation / "model_comparison.csv", encoding="utf-8-sig", newline="") as file:
        return [row for row in csv.DictReader(file) if row["split"] == "holdout"]


def hub_token(environment_file: Path = Path(".env")) -> str:
    """HF_TOKEN from the environment, or from a line `HF_TOKEN=…` of `.env`; UserError where there is none."""
    token = os.environ.get("HF_TOKEN", "")
    if not token and environment_file.is_file():
        for line in environment_file.read_text(encoding="utf-8-sig").splitlines():
            name, _, value = line.strip().removeprefix("export ").partition("=")
            if name.strip() == "HF_TOKEN":
                token = value.strip().strip("'\"")
    if not token:
        raise UserError("--push needs HF_TOKEN, in the environment or as a line HF_TOKEN=… of .env.")
    return token


def push(folder: Path, repository: str, token: str) -> str:
    """Upload an exported folder to a private repository of the Hub; returns its address."""
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    try:
        address = str(api.create_repo(repository, private=True, exist_ok=True))
        api.upload_folder(repo_id=repository, folder_path=str(folder))
    except Exception as error:  # network, rights, names: whatever the Hub or the way to it says
        said = " ".join(str(error).split())[:240]
        raise UserError(
            f"--push {repository}: could not be uploaded. {folder} is whole and stays. The Hub said: {said}"
        ) from error
    return address
