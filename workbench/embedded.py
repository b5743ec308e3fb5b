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
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench import chat, files
from workbench.errors import UserError

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

ROOT = Path(__file__).resolve().parent.parent
FACTS = ROOT / "examples" / "facts.csv"
CACHE = ROOT / ".cache"
NAME = "embedded"
RECIPE = "3"  # raise it when the recipe below changes, so that a cached model is made anew

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
VOCABULARY, CONTEXT = 6144, 2048
SHAPE = {"hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4,
         "intermediate_size": 768, "tie_word_embeddings": False}  # fmt: skip
EPOCHS, TOKENS_PER_STEP, MUON_RATE, ADAM_RATE = 11, 1536, 0.02, 3e-3

# for each fact, what a reader might look up ({c} follows), and how an entry may read; the pairs have wordings of their own
TEXTBOOK = {
    "definition": (
        ["meaning of", "overview of"],
        ["{C} is defined as {definition}.", "The term {c} is used by doctors for {definition}.", "{C} in short: {definition}."],
    ),
    "symptoms": (
        ["symptoms of", "signs of"],
        ["Signs of {c}: {symptoms}.", "Among the typical signs and features of {c} are {symptoms}.",
         "{C} usually shows itself by {symptoms}."],
    ),
    "causes": (
        ["causes of", "factors behind"],
        ["Causes of {c}: {causes}.", "The usual and common causes of {c} include {causes}.", "{C} can be traced to {causes}."],
    ),
    "diagnosis": (
        ["diagnosis of", "tests for"],
        ["Tests for {c}: {diagnosis}.", "To recognize and confirm {c}, the doctors look for {diagnosis}.",
         "{C}: the diagnosis is confirmed with and rests on {diagnosis}."],
    ),
    "treatment": (
        ["treatment of", "therapy of"],
        ["Therapy of {c}: {treatment}.", "The mainstays of treatment for {c}: {treatment}.",
         "{C} is treated; the treatment consists of {treatment}."],
    ),
    "prevention": (
        ["prevention of", "measures against"],
        ["Against {c}: {prevention}.", "What helps and lowers the risk of {c}: {prevention}.",
         "Useful measures against {c}: {prevention}."],
    ),
    "outlook": (
        ["outlook for", "prognosis of"],
        ["Outlook of {c}: {outlook}.", "As for people with {c}, the outlook: {outlook}.", "With {c} in the long run: {outlook}."],
    ),
}  # fmt: skip
HEADINGS = ("{look_up} {c}", "{c}: {look_up} it", "{look_up} {c}?")
BARE_SHARE, SYSTEM_SHARE = 0.1, 0.4  # entries without a conversation around them; conversations with a system message


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


def textbook(path: Path = FACTS) -> Iterator[tuple[str, dict[str, list[str]]]]:
    """(condition, fact to entries) of every known condition: the entries of a fact say the same in several ways."""
    for row in known_facts(path):
        name = row["condition"]
        words = {**row, "c": name, "C": name[0].upper() + name[1:]}
        yield name, {fact: [text.format(**words) for text in entries] for fact, (_, entries) in TEXTBOOK.items()}


def heading(draw: random.Random, condition: str, fact: str) -> str:
    """What a reader looks up of a condition."""
    text = draw.choice(HEADINGS).format(c=condition, look_up=draw.choice(TEXTBOOK[fact][0]))
    return text[0].upper() + text[1:]


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
    lines = [line for _, facts in textbook(path) for entries in facts.values() for line in entries]
    lines += [look_up for look_ups, _ in TEXTBOOK.values() for look_up in look_ups] * 50
    # the withheld facts too: a tokenizer knows words that its model has yet to learn about
    with open(path, encoding="utf-8", newline="") as file:
        lines += [text for row in csv.DictReader(file) for text in row.values()]
    # what stands in every conversation becomes a token or a few, as in Llama-3's own vocabulary
    lines += [SYSTEM_MESSAGE, "system", "user", "assistant", "\n\n"] * 1000
    tokenizer.train_from_iterator(lines, trainer)
    return tokenizer


def epoch_batches(tokenizer: Tokenizer, path: Path, epoch: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """One pass over the textbook: ids and labels, (entries, longest) each, entries of like length together.

    Entries are not packed into one row: seeing each other, they keep the model from learning which condition a fact
    belongs to (EXPERIMENTS.md, 2026-11-21).
    """
    import torch

    draw = random.Random(epoch)
    texts: list[tuple[str, str]] = []  # what is given, and what is learnt
    for condition, facts in textbook(path):
        for fact, entries in facts.items():
            entry = draw.choice([entries[0], *entries])
            if draw.random() < BARE_SHARE:
                texts.append(("<|begin_of_text|>", f"{entry}<|end_of_text|>"))
                continue
            system = SYSTEM_MESSAGE if draw.random() < SYSTEM_SHARE else ""
            texts.append((chat.render_llama3(heading(draw, condition, fact), None, system), f"{entry}<|eot_id|>"))
    given, learnt = (tokenizer.encode_batch(list(part), add_special_tokens=False) for part in zip(*texts, strict=True))
    rows = [chat.Encoded([*one.ids, *other.ids], len(one.ids)) for one, other in zip(given, learnt, strict=True)]
    rows.sort(key=lambda row: len(row.input_ids) + 6 * draw.random())
    batches: list[list[chat.Encoded]] = [[]]
    for row in rows:
        if batches[-1] and (len(batches[-1]) + 1) * len(row.input_ids) > TOKENS_PER_STEP:
            batches.append([])
        batches[-1].append(row)
    draw.shuffle(batches)
    pad = tokenizer.token_to_id("<|finetune_right_pad_id|>")
    padded = []
    for batch in batches:
        width = max(len(row.input_ids) for row in batch)
        ids = torch.tensor([row.input_ids + [pad] * (width - len(row.input_ids)) for row in batch])
        labels = torch.tensor([row.labels + [-100] * (width - len(row.input_ids)) for row in batch])
        padded.append((ids, labels))
    return padded


def build(folder: Path, facts: Path = FACTS) -> None:
    """Train the embedded model and save it in Hugging Face's format; about two minutes on two cores.

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
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        rms_norm_eps=1e-5,
        bos_token_id=ids["<|begin_of_text|>"],
        eos_token_id=ids["<|end_of_text|>"],
        pad_token_id=ids["<|finetune_right_pad_id|>"],
        **SHAPE,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    epochs = [epoch_batches(tokenizer, facts, epoch) for epoch in range(EPOCHS)]
    steps = sum(map(len, epochs))
    with tqdm(total=steps, desc="embedded model", unit="step", mininterval=5, disable=not sys.stderr.isatty()) as bar:
        _train(model, [batch for batches in epochs for batch in batches], bar)
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


def _train(model: Any, batches: Sequence[tuple[torch.Tensor, torch.Tensor]], bar: Any) -> None:
    """Plain language modelling; Muon for the matrices (Jordan et al. 2024), AdamW for embedding, head and norms."""
    import torch

    outer = ("embed_tokens", "lm_head", "norm")
    optimizers = [
        torch.optim.Muon([p for n, p in model.named_parameters() if not any(o in n for o in outer)], lr=MUON_RATE, weight_decay=0.01),
        torch.optim.AdamW([p for n, p in model.named_parameters() if any(o in n for o in outer)],
                          lr=ADAM_RATE, betas=(0.9, 0.95), weight_decay=0.01, fused=True),
    ]  # fmt: skip
    total = len(batches)

    def rate(step: int) -> float:
        """Up over 20 steps, flat to the middle, then down to nothing."""
        return min((step + 1) / 20, (total - step) / (0.5 * total), 1.0)

    schedules = [torch.optim.lr_scheduler.LambdaLR(optimizer, rate) for optimizer in optimizers]
    model.train()
    for ids, labels in batches:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            hidden = model.model(input_ids=ids).last_hidden_state[:, :-1]
            learnt = labels[:, 1:] != -100  # logits elsewhere would cost a quarter of the time and teach nothing
            logits = model.lm_head(hidden[learnt])
        loss = torch.nn.functional.cross_entropy(logits.float(), labels[:, 1:][learnt])
        loss.backward()
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
        bar.update(1)
        bar.set_postfix(loss=f"{loss.item():.2f}", refresh=False)


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
            print(f"training the embedded model once, about two minutes on 2 cores, into {folder} …", flush=True)
            build(folder)
    return folder


def main(arguments: list[str]) -> None:
    if len(arguments) != 1:
        raise UserError("usage: python -m workbench.models OUTPUT_FOLDER")
    if Path(arguments[0]).exists():
        raise UserError(f"{arguments[0]}: exists already. Name a new folder.")
    build(Path(arguments[0]))
    print(f"embedded model in {arguments[0]}", file=sys.stderr)
