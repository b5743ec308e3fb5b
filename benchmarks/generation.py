"""Answers of base and tuned model side by side: one question at a time, static batches, and this workbench.

    python benchmarks/generation.py                          SmolLM2-135M and a random adapter
    python benchmarks/generation.py --random-weights 8b      Llama-3-8B's shape on the GPU, with a random adapter

Every arm answers the same prompts, greedily, for the base and for the adapter, and runs in a process of its own. "plain"
is the recipe of most scripts: both models loaded, one question at a time. "static" pads batches in the order of the file.
"packed" leaves weights in NF4 where a CPU would unpack them once.
"steps" and "rows a step" show what a GPU would gain where a step costs the same for more rows.
A model with random weights never stops by itself, so its answers end after as many tokens as MedQuAD's do. The output on
named machines is in benchmarks/results/generation.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import side_by_side

from meerkat_workbench.tuning import smollm2
from meerkat_workbench.tuning.artifacts import BASE, TUNED, Prediction

ROOT = Path(__file__).resolve().parent.parent

ARMS = ("plain", "static", "ours-in-turn-packed", "ours-in-turn", "ours-together", "ours-in-turn-refilled",
        "ours-together-refilled")  # fmt: skip
LENGTH_MU, LENGTH_SIGMA = 4.7, 0.7  # log-normal number of new tokens of an answer with random weights: about 140 in the mean


def prompts(options: argparse.Namespace, tokenizer: Any) -> list[tuple[int, ...]]:
    """Token ids of each prompt."""
    if options.random_weights:
        draw = random.Random(0)
        system = [draw.randrange(10, 1000) for _ in range(40)]
        return [tuple(system + [draw.randrange(10, 1000) for _ in range(draw.randint(8, 60))]) for _ in range(options.questions)]
    from meerkat_workbench.tuning import chat

    asked = [question for path in sorted((ROOT / "examples" / "specialties").glob("*.json"))
             for question in list(json.loads(path.read_text(encoding="utf-8")))[::11]]  # fmt: skip
    render = chat.JinjaTemplate.read(smollm2.ensure()).render
    return [tuple(chat.encode_prompt(tokenizer, render(question, None, options.system)))
            for question in asked[: options.questions]]  # fmt: skip


def load(options: argparse.Namespace) -> Any:
    """The base with an adapter that is called "tuned"."""
    import random_weights
    import torch
    from peft import LoraConfig, get_peft_model

    from meerkat_workbench.device import devices, hub
    from meerkat_workbench.tuning import llm

    hub.silence_libraries()
    if options.random_weights:
        base = random_weights.build(options.random_weights, load_in_4bit=True)
    else:
        unpacked = options.arm.startswith("ours") and not options.arm.endswith("packed")
        load_model = llm.load_for_answers if unpacked else llm.load_base
        base = load_model(smollm2.NAME, load_in_4bit=True, precision=devices.native_precision())
    if options.adapter:
        return llm.load_adapter(base.eval(), Path(options.adapter), name=TUNED)
    torch.manual_seed(1)
    settings = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    model: Any = get_peft_model(base, settings, adapter_name=TUNED)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.mul_(0.05)
    return model.eval()


def limits(options: argparse.Namespace, count: int) -> list[int]:
    """New tokens that each answer may have."""
    if not options.random_weights:
        return [options.new_tokens] * count
    draw = random.Random(1)
    return [min(options.new_tokens, max(8, round(draw.lognormvariate(LENGTH_MU, LENGTH_SIGMA)))) for _ in range(count)]


def run_arm(options: argparse.Namespace) -> None:
    """One arm, in this process; prints a JSON line."""
    import torch

    from meerkat_workbench.tuning import llm
    from meerkat_workbench.tuning.artifacts import Split
    from meerkat_workbench.tuning.generation import generator
    from meerkat_workbench.tuning.generation.decoding import Decoder, Decoding
    from meerkat_workbench.tuning.generation.prediction_store import PredictionStore
    from meerkat_workbench.tuning.generation.questions import Question

    tokenizer = llm.load_tokenizer(smollm2.NAME)  # also with random weights, which need no more of it than a pad token
    asked = prompts(options, tokenizer)
    if options.arm == "plain" and options.plain_questions:
        asked = asked[: options.plain_questions]
    stops = () if options.random_weights else tuple(llm.stop_ids(tokenizer))
    most = limits(options, len(asked))
    model = load(options)
    started = time.perf_counter()
    answers_of: dict[str, list[list[int]]] = {}  # token ids by arm and question
    steps_made: list[int] = []  # rows of each step
    together = "together" in options.arm
    if options.arm.startswith("ours"):
        settings = Decoding(options.new_tokens, 0.0, 0, stops or (-1,), tokenizer.pad_token_id)
        questions = [Question(str(i), Split.EVAL, "x", "", "", str(i), ids) for i, ids in enumerate(asked)]

        class LimitedDecoder(Decoder):
            """Ends each answer at its limit, as random weights never stop by themselves; counts the rows of each step."""

            def _choose(self, logits: Any, names: Any, steps: Any) -> list[int]:
                chosen = super()._choose(logits, names, steps)
                steps_made.append(len(names))
                return [-1 if step >= most[int(name)] else token for name, step, token in zip(names, steps, chosen, strict=True)]

        class MemoryStore(PredictionStore):
            """Keeps answers in memory, so that the time of the disk is not counted."""

            def __init__(self, folder: Path) -> None:
                super().__init__(folder)
                self.records: Any = {}

            def add(self, records: Sequence[Prediction]) -> None:
                self.records.update({record.key: record for record in records})

        generator.Decoder = LimitedDecoder  # type: ignore[attr-defined]
        with tempfile.TemporaryDirectory() as folder:
            store = MemoryStore(Path(folder))
            size = options.batch or generator.find_batch_size(
                model.device.type, questions, settings, model.config, 2 if together else 1
            )
            answerer = generator.Generator(store, IdsAsText(), settings, size, refill=options.arm.endswith("refilled"))
            keys = {arm: [f"{arm}{i}" for i in range(len(asked))] for arm in (BASE, TUNED)}
            if together:
                answerer.generate_mixed(model, {BASE: None, TUNED: TUNED}, {BASE: questions, TUNED: questions}, keys)
            else:
                for arm, adapter in ((BASE, None), (TUNED, TUNED)):
                    answerer.generate_sequential(model, arm, adapter, questions, keys[arm])
            ids_of = {key: json.loads(answer.text) for key, answer in store.records.items()}
        answers_of = {arm: [ids_of[key] for key in keys[arm]] for arm in keys}
    else:
        size = 1 if options.arm == "plain" else options.batch or 32
        for arm, adapter in ((BASE, None), (TUNED, TUNED)):
            with generator.active_adapter(model, adapter):
                answers_of[arm] = generate(model, asked, most, size, stops, tokenizer.pad_token_id)
    seconds = time.perf_counter() - started
    tokens = sum(len(ids) for answers in answers_of.values() for ids in answers)
    memory = (
        torch.cuda.max_memory_allocated()
        if torch.cuda.is_available()
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )
    side_by_side.report({
        "steps": len(steps_made), "rows_a_step": sum(steps_made) / max(1, len(steps_made)),
        "answers_a_second": 2 * len(asked) / seconds, "tokens_a_second": tokens / seconds, "peak_gb": memory / 1e9,
        "answers": {arm: [hashlib.sha256(json.dumps(ids).encode()).hexdigest() for ids in answers] for arm, answers in answers_of.items()},
    })  # fmt: skip


class IdsAsText:
    """In place of a tokenizer: an answer's text is its token ids as JSON, because the benchmark compares ids."""

    all_special_ids: tuple[int, ...] = ()
    unk_token_id = None

    def convert_tokens_to_ids(self, token: str) -> None:
        return None

    def decode(self, ids: list[int], **_: Any) -> str:
        return json.dumps(ids)

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": json.loads(text)}


def generate(
    model: Any, asked: list[tuple[int, ...]], most: list[int], size: int, stops: tuple[int, ...], pad: int
) -> list[list[int]]:
    """Token ids of answers by transformers' own generation, in batches in the order of the file, padded on the left."""
    import torch

    from meerkat_workbench.device import devices

    answers = []
    for start in range(0, len(asked), size):
        batch, longest = asked[start : start + size], max(most[start : start + size])
        width = max(map(len, batch))
        ids = torch.tensor([[pad] * (width - len(row)) + list(row) for row in batch], device=model.device)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in batch], device=model.device)
        with torch.inference_mode(), devices.autocast(model):
            output = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=longest, do_sample=False,
                                    eos_token_id=list(stops) or None, pad_token_id=pad)  # fmt: skip
        for row, limit in zip(output[:, width:].tolist(), most[start : start + size], strict=True):
            end = next((place for place, token in enumerate(row) if token in stops), len(row))
            answers.append(row[: min(end, limit)])
    return answers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--random-weights", choices=("8b", "1b", "tiny"))
    parser.add_argument("--adapter", help="an adapter of SmolLM2, as fine_tuning.py --demo leaves it in results/demo")
    parser.add_argument("--questions", type=int, default=192)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument(
        "--plain-questions", type=int, default=0, help="questions that the plain arm asks, which takes longest; 0 asks all"
    )
    parser.add_argument("--batch", type=int, default=0, help="questions answered at once; 0 chooses, 32 for static")
    parser.add_argument("--system", default="You are a helpful medical assistant.")
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--arm", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.arm:
        run_arm(options)
        return
    print(f"{side_by_side.machine()}, {options.questions} questions to base and tuned model, at most {options.new_tokens} new tokens, "
          f"{options.random_weights or smollm2.NAME}")  # fmt: skip
    print(f"{'arm':<24}{'answers/s':>11}{'tokens/s':>10}{'peak GB':>9}{'as plain':>10}{'steps':>8}{'rows a step':>13}")
    plain: dict[str, list[str]] = {}
    for arm, got in side_by_side.run(__file__, options.arms.split(",")):
        if isinstance(got, str):
            print(f"{arm:<24}failed: {got}", flush=True)
            continue
        plain = plain or got["answers"]
        pairs = [pair for of, answers in plain.items() for pair in zip(answers, got["answers"][of], strict=False)]
        same = sum(a == b for a, b in pairs) / len(pairs)
        print(
            f"{arm:<24}{got['answers_a_second']:>11.2f}{got['tokens_a_second']:>10,.0f}{got['peak_gb']:>9.2f}{100 * same:>9.0f}%"
            + (f"{got['steps']:>8}{got['rows_a_step']:>13.1f}" if got["steps"] else ""),
            flush=True,
        )


if __name__ == "__main__":
    main()
