"""Packs: whole examples within a budget, the same loss and gradients as one example at a time."""

import itertools
import random

import pytest
import torch

from meerkat_workbench.device import tensors
from meerkat_workbench.tuning.training import activation_checkpointing, packing, plan
from meerkat_workbench.tuning.training.answer_trainer import FrozenHeadLoss, add_answer_loss
from meerkat_workbench.tuning.training.examples import Example

CPU = torch.device("cpu")


def drawn(count, seed=0, longest=60, vocabulary=500):
    """Examples of random ids, a third of each a prompt."""
    draw = random.Random(seed)
    examples = []
    for number in range(count):
        ids = [draw.randrange(vocabulary) for _ in range(draw.randint(3, longest))]
        prompt = max(1, len(ids) // 3)
        examples.append(Example(str(number), "x", ids, [-100] * prompt + ids[prompt:]))
    return examples


@pytest.fixture
def model():
    """A small Llama with shared key heads and an adapter on every layer, in fp32."""
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=500, hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4,
                         num_key_value_heads=2, attn_implementation="sdpa")  # fmt: skip
    wrapped = get_peft_model(LlamaForCausalLM(config), LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    add_answer_loss(wrapped.get_base_model())
    return wrapped


def gradients(model, groups):
    """Summed loss and adapter gradients over groups of examples, each group one pack."""
    model.zero_grad()
    total = 0.0
    for group in groups:
        with packing.packed(model.get_base_model()):
            loss = model(**packing.collate_pack(group).inputs(CPU), answer_loss=True).loss
            loss.backward()
        total += float(loss)
    return total, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same(left, right):
    assert left[0] == pytest.approx(right[0], rel=1e-5)
    assert left[1].keys() == right[1].keys() and left[1]
    for name, value in left[1].items():
        torch.testing.assert_close(value, right[1][name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_every_example_is_in_one_pack_and_no_pack_is_over_budget(seed):
    draw = random.Random(seed)
    lengths = [draw.randint(1, 300) for _ in range(200)] + [900]
    packs = packing.pack(lengths, 512)
    assert sorted(itertools.chain.from_iterable(packs)) == list(range(201))
    assert all(sum(lengths[i] for i in group) <= 512 or group == [200] for group in packs)
    fewest = -(-sum(lengths[:-1]) // 512)
    assert len(packs) - 1 <= 11 / 9 * fewest + 1


def test_packed_examples_give_the_loss_and_gradients_of_single_ones(model):
    examples = drawn(9)
    assert_same(gradients(model, [examples]), gradients(model, [[example] for example in examples]))


def test_a_padded_batch_gives_the_loss_of_the_pack(model):
    examples = drawn(4)
    ids = [example.input_ids for example in examples]
    padded = model(
        input_ids=tensors.pad(ids, 0, CPU), attention_mask=tensors.mask_of(ids, CPU),
        labels=tensors.pad([example.labels for example in examples], -100, CPU), answer_loss=True,
    )  # fmt: skip
    assert float(padded.loss) == pytest.approx(gradients(model, [examples])[0], rel=1e-5)


def test_no_example_sees_another(model):
    first, second, other = drawn(3)
    losses = []
    for neighbour in (second, other):
        with packing.packed(model.get_base_model()), torch.no_grad():
            losses.append(model(**packing.collate_pack([neighbour, first]).inputs(CPU), answer_loss=True).losses)
    mine = first.supervised
    torch.testing.assert_close(losses[0][-mine:], losses[1][-mine:])
    assert not torch.allclose(losses[0][:2], losses[1][:2])


@pytest.mark.parametrize("checkpointing", ["selective", "full"])
def test_recomputation_changes_no_gradient(model, checkpointing):
    examples = drawn(5)
    model.train()
    expected = gradients(model, [examples])
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=activation_checkpointing.options(checkpointing))
    assert_same(gradients(model, [examples]), expected)


def test_the_head_in_chunks_gives_the_loss_and_gradient_of_cross_entropy(monkeypatch):
    torch.manual_seed(0)
    hidden, weight, targets = torch.randn(23, 16, requires_grad=True), torch.randn(50, 16), torch.randint(0, 50, (23,))
    logits = hidden @ weight.T
    expected = torch.nn.functional.cross_entropy(logits, targets, reduction="sum") * 0.25
    (gradient,) = torch.autograd.grad(expected, hidden)
    for chunk in (50, 50 * 7, 2**27):
        monkeypatch.setattr(FrozenHeadLoss, "CHUNK", {"cpu": chunk})
        loss, losses, correct = FrozenHeadLoss.apply(hidden, weight, targets)
        (mine,) = torch.autograd.grad(loss * 0.25, hidden)
        torch.testing.assert_close(loss * 0.25, expected)
        torch.testing.assert_close(mine, gradient)
        torch.testing.assert_close(losses.sum(), loss)
        assert (correct == (logits.argmax(-1) == targets)).all()


def test_inside_packed_a_batch_that_is_no_pack_is_refused(model):
    with pytest.raises(RuntimeError), packing.packed(model.get_base_model()):
        model(input_ids=torch.tensor([[1, 2, 3]]))


def test_models_that_packs_would_train_wrongly_are_refused():
    from transformers import Gemma3TextConfig, LlamaConfig, MistralConfig

    from meerkat_workbench.core.errors import UserError

    packing.check_attention(LlamaConfig(), 10_000)
    packing.check_attention(MistralConfig(sliding_window=4096), 4096)
    for config in (MistralConfig(sliding_window=4096), Gemma3TextConfig(sliding_window=512)):
        with pytest.raises(UserError) as caught:
            packing.check_attention(config, 5000)
        assert "MAX_SEQ_LENGTH" in caught.value.remedy


def test_micro_batches_recompute_no_more_than_memory_asks_for():
    from transformers import LlamaConfig

    llama_8b = LlamaConfig(vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
                           num_attention_heads=32, num_key_value_heads=8)  # fmt: skip

    def choose(gigabytes, **keywords):
        asked = {"step_tokens": 17_000, "longest": 2000, "tokens": 0, "checkpointing": "auto", "precision": "bf16"} | keywords
        return plan.choose_micro_batches(llama_8b, **asked, free=gigabytes and round(gigabytes * 1e9))

    assert choose(None).checkpointing == "none"
    modes = [choose(gigabytes).checkpointing for gigabytes in (140, 65, 30, 8)]
    assert modes == sorted(modes, key=["none", "selective", "full"].index) and modes[-1] == "full"
    assert choose(8).tokens >= 2000
    assert choose(65, tokens=4096).tokens == 4096
    assert choose(8, checkpointing="none").checkpointing == "none"
