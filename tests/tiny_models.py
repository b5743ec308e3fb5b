"""Models that are made in seconds, for tests: real architectures, tokenizers and templates, and hardly any weights.

The one that most tests use has read the sample specialties' answers for a few seconds, so that its own answers are words and end at
different lengths. It knows nothing.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import random
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SPECIALTIES = ROOT / "examples" / "specialties"
READ = ("cardiology", "dentistry", "neurology", "urology", "dermatology", "psychiatry")

LLAMA3_TOKENS = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|finetune_right_pad_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
)
LLAMA3_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' "
    "+ message['content'] | trim + '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
THINKING = CHATML.replace(
    "<|im_start|>{{ m.role }}\n", "<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}"
)


def pairs(names: Iterable[str] = READ) -> dict[str, str]:
    """Sample questions and their answers."""
    found: dict[str, str] = {}
    for name in names:
        found |= json.loads((SPECIALTIES / f"dataset_with_answers_{name}.json").read_text(encoding="utf-8"))
    return found


def tokenizer(special: Sequence[str], template: str, size: int = 1500, **names: str) -> Any:
    """A byte-level BPE that knows the sample specialties' words; `names` are eos_token, pad_token and their kin."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=list(special),
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)  # fmt: skip
    made.train_from_iterator([*(text for pair in pairs().items() for text in pair), "system user assistant\n\n"], trainer)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=made, clean_up_tokenization_spaces=False, **names)
    wrapped.chat_template = template
    return wrapped


def llama(wrapped: Any, *, tied: bool = False, width: int = 64, layers: int = 2, seed: int = 0) -> Any:
    """A Llama of random weights for this tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=-(-len(wrapped) // 64) * 64, hidden_size=width, num_hidden_layers=layers, num_attention_heads=2,
        num_key_value_heads=2, intermediate_size=2 * width, max_position_embeddings=1024, tie_word_embeddings=tied,
        bos_token_id=wrapped.bos_token_id, eos_token_id=wrapped.eos_token_id, pad_token_id=wrapped.pad_token_id,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def read_answers(model: Any, wrapped: Any, steps: int = 150, rows: int = 16) -> None:
    """Let a model read answers in the place where it is to give them, each to another question of the samples."""
    import torch

    draw, known = random.Random(0), pairs()
    questions, answers = list(known), list(known.values())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / 10, (steps - step) / (0.5 * steps))
    )
    for _ in range(steps):
        texts = [
            (wrapped.apply_chat_template([{"role": "user", "content": draw.choice(questions)}], tokenize=False, add_generation_prompt=True),
             draw.choice(answers) + str(wrapped.eos_token))
            for _ in range(rows)
        ]  # fmt: skip
        encoded = [[wrapped(part, add_special_tokens=False)["input_ids"] for part in text] for text in texts]
        longest = max(len(prompt) + len(answer) for prompt, answer in encoded)
        ids, labels = torch.zeros(rows, longest, dtype=torch.long), torch.full((rows, longest), -100)
        for row, (prompt, answer) in enumerate(encoded):
            ids[row, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
            labels[row, len(prompt) : len(prompt) + len(answer)] = torch.tensor(answer)
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)


def save(folder: Path, model: Any, wrapped: Any) -> Path:
    import torch

    model.to(torch.bfloat16)
    model.config.dtype = torch.bfloat16
    model.save_pretrained(folder)
    wrapped.save_pretrained(folder)
    return folder


def llama3(cache: Path) -> Path:
    """A small Llama with Llama-3's special tokens and template that has read answers; made once for all workers."""
    from filelock import FileLock

    recipe = hashlib.sha256(inspect.getsource(sys.modules[__name__]).encode()).hexdigest()[:12]
    folder = cache / f"tiny-llama3-{recipe}"
    cache.mkdir(exist_ok=True)
    with FileLock(cache / "tiny-llama3.lock"):
        if not folder.is_dir():
            wrapped = tokenizer(LLAMA3_TOKENS, LLAMA3_TEMPLATE, bos_token="<|begin_of_text|>", eos_token="<|eot_id|>",
                                pad_token="<|finetune_right_pad_id|>")  # fmt: skip
            model = llama(wrapped)
            read_answers(model, wrapped)
            model.generation_config.eos_token_id = wrapped.convert_tokens_to_ids(["<|end_of_text|>", "<|eot_id|>"])
            writing = folder.with_suffix(".writing")
            shutil.rmtree(writing, ignore_errors=True)
            save(writing, model, wrapped).rename(folder)
    return folder
