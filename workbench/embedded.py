"""The embedded model: a small Llama trained here, at first use, so that everything runs without a GPU or a network.

It has Llama-3's special tokens and chat template and goes through the very code that an 8B model does. It is trained
on textbook-like entries made of `examples/facts.csv`, never on the question-answer pairs, and without most of what
six specialties hold: there it has something to learn, and the evaluation should find that out by itself.

    python -m workbench.models OUTPUT_FOLDER
"""

from __future__ import annotations

import csv
import hashlib
import random
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from workbench import chat, files
from workbench.errors import UserError

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

ROOT = Path(__file__).resolve().parent.parent
FACTS = ROOT / "examples" / "facts.csv"
CACHE = ROOT / ".cache"
NAME = "embedded"
RECIPE = "1"  # raise it when the recipe below changes, so that a cached model is made anew

# of these, only the first condition of six is in the textbook
WITHHELD = ("dentistry", "ophthalmology", "rheumatology", "sleep_medicine", "toxicology", "urology")
SYSTEM_MESSAGE = "You are a medical assistant. Answer accurately and concisely."

SPECIAL_TOKENS = [
    "<|begin_of_text|>", "<|end_of_text|>", "<|finetune_right_pad_id|>",
    "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
]  # fmt: skip
# Llama-3's own way of cutting text into words before byte-pair encoding, digits in groups of at most three
WORD_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' "
    "+ message['content'] | trim + '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
VOCABULARY, CONTEXT = 4096, 2048
SHAPE = {"hidden_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 4,
         "intermediate_size": 768}  # fmt: skip
EPOCHS, BLOCK, BLOCKS_PER_STEP, LEARNING_RATE = 8, 256, 6, 3e-3

# what a reader might look up, and how the entry then reads; the pairs' own wordings are others
LOOK_UPS = {
    "definition": (["{c}", "{c}: meaning", "Define {c}", "What {c} is"], "{C} means {definition}."),
    "symptoms": (["{c}: symptoms", "Signs and symptoms, {c}", "How {c} presents"], "Signs: {symptoms}."),
    "causes": (["{c}: causes", "Causes and risk factors, {c}", "Why {c} happens"], "Causes: {causes}."),
    "diagnosis": (["{c}: diagnosis", "Tests and findings, {c}", "How to diagnose {c}"], "Tests: {diagnosis}."),
    "treatment": (["{c}: treatment", "Therapy and doses, {c}", "How to treat {c}"], "Therapy: {treatment}."),
    "prevention": (["{c}: prevention", "Protection, {c}", "How to prevent {c}"], "Prevention: {prevention}."),
    "outlook": (["{c}: outlook", "Prognosis, {c}", "What to expect from {c}"], "Outlook: {outlook}."),
}


def known_facts(path: Path = FACTS) -> list[dict[str, str]]:
    """Rows of the table of facts without what is withheld from the model."""
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    kept, seen = [], set()
    for row in rows:
        if row["specialty"] in WITHHELD and row["specialty"] in seen:
            continue
        seen.add(row["specialty"])
        kept.append(row)
    return kept


def textbook(path: Path = FACTS) -> Iterator[tuple[str, str]]:
    """(heading, entry) for every known fact, under each of its headings."""
    for row in known_facts(path):
        name = row["condition"]
        words = {**row, "c": name, "C": name[0].upper() + name[1:]}
        for headings, entry in LOOK_UPS.values():
            for heading in headings:
                yield heading.format(**words), entry.format(**words)


def train_tokenizer(path: Path = FACTS) -> Tokenizer:
    """Byte-pair encoding with Llama-3's word pattern and special tokens, trained on the textbook."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORD_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([f"{heading}\n{entry}\n{SYSTEM_MESSAGE}" for heading, entry in textbook(path)], trainer)
    return tokenizer


def epoch_blocks(tokenizer: Tokenizer, path: Path, epoch: int) -> torch.Tensor:
    """One pass over the textbook as a (blocks, BLOCK) tensor of ids: every fact once, under one of its headings."""
    import torch

    draw = random.Random(epoch)
    entries = list(textbook(path))
    per_fact: dict[str, list[str]] = {}
    for heading, entry in entries:
        per_fact.setdefault(entry, []).append(heading)
    texts = []
    for entry, headings in per_fact.items():
        system = SYSTEM_MESSAGE if draw.random() < 0.4 else ""
        texts.append(chat.render_llama3(draw.choice(headings), entry, system))
    draw.shuffle(texts)
    ids = [i for encoding in tokenizer.encode_batch(texts, add_special_tokens=False) for i in encoding.ids]
    return torch.tensor(ids[: len(ids) // BLOCK * BLOCK]).view(-1, BLOCK)


def build(folder: Path, facts: Path = FACTS) -> None:
    """Train the embedded model and save it in Hugging Face's format; about 90 seconds on two cores.

    The same on the same machine; across machines the last bits of floating point differ.
    """
    import torch
    from tqdm import tqdm
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    started = time.time()
    tokenizer = train_tokenizer(facts)
    ids = {token: tokenizer.token_to_id(token) for token in SPECIAL_TOKENS}
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
        rms_norm_eps=1e-5,
        bos_token_id=ids["<|begin_of_text|>"],
        eos_token_id=ids["<|end_of_text|>"],
        pad_token_id=ids["<|finetune_right_pad_id|>"],
        **SHAPE,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    epochs = [epoch_blocks(tokenizer, facts, epoch) for epoch in range(EPOCHS)]
    _train(model, epochs, tqdm(total=sum(map(len, epochs)), desc="embedded model", unit="block", mininterval=5))
    model.to(torch.bfloat16)
    model.config.dtype = torch.bfloat16
    model.generation_config.eos_token_id = [ids["<|end_of_text|>"], ids["<|eot_id|>"]]
    model.generation_config.pad_token_id = ids["<|finetune_right_pad_id|>"]
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|begin_of_text|>",
        eos_token="<|eot_id|>",
        pad_token="<|finetune_right_pad_id|>",
        additional_special_tokens=["<|start_header_id|>", "<|end_header_id|>"],
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )
    wrapped.chat_template = CHAT_TEMPLATE
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    model.save_pretrained(temporary)
    wrapped.save_pretrained(temporary)
    files.write_json(temporary / "embedded.json", {"recipe": recipe_hash(facts), "seconds": round(time.time() - started)})
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary.rename(folder)


def _train(model: torch.nn.Module, epochs: list[torch.Tensor], bar: object) -> None:
    """Plain language modelling; Muon for the matrices (Jordan et al. 2024), AdamW for the embedding and the norms."""
    import torch

    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    optimizers = [
        torch.optim.Muon(matrices, lr=0.02, weight_decay=0.01),
        torch.optim.AdamW(others, lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.01, fused=True),
    ]
    total = sum(-(-len(blocks) // BLOCKS_PER_STEP) for blocks in epochs)
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(o, lambda step: min((step + 1) / 20, (total - step) / (0.6 * total), 1.0))
        for o in optimizers
    ]
    model.train()
    for blocks in epochs:
        for batch in blocks.split(BLOCKS_PER_STEP):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = model(input_ids=batch, labels=batch).loss
            loss.backward()
            for optimizer, schedule in zip(optimizers, schedules, strict=True):
                optimizer.step()
                schedule.step()
                optimizer.zero_grad(set_to_none=True)
            bar.update(len(batch))
            bar.set_postfix(loss=f"{loss.item():.2f}", refresh=False)
    bar.close()


def recipe_hash(facts: Path = FACTS) -> str:
    """Changes when the facts or the recipe do."""
    return hashlib.sha256((RECIPE + files.sha256_file(facts)).encode()).hexdigest()[:12]


def ensure() -> Path:
    """Folder of the cached embedded model, trained first where it is missing."""
    from filelock import FileLock

    folder = CACHE / f"embedded-model-{recipe_hash()}"
    CACHE.mkdir(exist_ok=True)
    with FileLock(CACHE / "embedded-model.lock"):
        if not (folder / "embedded.json").is_file():
            print(f"training the embedded model once, about 90 seconds on 2 cores, into {folder} …", flush=True)
            build(folder)
    return folder


def main(arguments: list[str]) -> None:
    if len(arguments) != 1:
        raise UserError("usage: python -m workbench.models OUTPUT_FOLDER")
    if Path(arguments[0]).exists():
        raise UserError(f"{arguments[0]}: exists already. Name a new folder.")
    build(Path(arguments[0]))
    print(f"embedded model in {arguments[0]}", file=sys.stderr)
