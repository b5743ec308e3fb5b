"""Likelihoods against transformers' own loss, batched and not, and what retention makes of answers and losses."""

import pytest
import torch

from workbench.evaluation import likelihood, retention
from workbench.evaluation.answers import Store


@pytest.fixture(scope="module")
def decoder(embedded_model):
    from workbench import models

    models.quiet()
    return models.load_base(str(embedded_model), load_in_4bit=True).eval(), models.load_tokenizer(str(embedded_model))


@pytest.fixture(scope="module")
def encoder_decoder(tmp_path_factory):
    import random_weights

    from workbench import models

    folder = tmp_path_factory.mktemp("t5")
    random_weights.tiny_t5(folder, ["What is asthma?", "Asthma is a disease of the airways."])
    return models.load_base(str(folder), load_in_4bit=False).eval(), models.load_tokenizer(str(folder))


def own_loss(model, prompt, ids):
    """What transformers says of the same tokens."""
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        if model.config.is_encoder_decoder:
            return float(model(input_ids=torch.tensor([prompt]), labels=torch.tensor([ids])).loss)
        labels = torch.tensor([[-100] * len(prompt) + ids])
        return float(model(input_ids=torch.tensor([prompt + ids]), labels=labels).loss)


@pytest.mark.parametrize("kind", ["decoder", "encoder_decoder"])
def test_losses_of_a_padded_batch_are_transformers_own_one_by_one(kind, request, tmp_path):
    model, tokenizer = request.getfixturevalue(kind)
    pairs = [
        ("What is asthma?", "Asthma is a disease of the airways."),
        ("What is asthma? What is it?", "A disease."),
        ("asthma", ""),
    ]
    texts = [likelihood.Text(f"k{n}", tuple(tokenizer(prompt)["input_ids"]), answer) for n, (prompt, answer) in enumerate(pairs)]
    store = Store(tmp_path, "likelihoods", likelihood.Likelihood)
    likelihood.measure(model, None, tokenizer, texts, store)
    for text in texts[:2]:
        ids = tokenizer(text.text, add_special_tokens=False)["input_ids"]
        assert store.records[text.key].loss == pytest.approx(own_loss(model, list(text.prompt_ids), ids), abs=0.03)  # bf16
    assert store.records["k2"].loss is None
    kept = (tmp_path / "likelihoods.jsonl").read_text()
    likelihood.measure(model, None, tokenizer, texts, store)
    assert (tmp_path / "likelihoods.jsonl").read_text() == kept  # nothing is measured twice


def test_every_retention_reference_passes_its_own_question_and_an_empty_answer_none():
    items = retention.items()
    assert len({item.id for item in items}) == len(items) == 54
    assert all(retention.passes(item, item.answer) and not retention.passes(item, "") for item in items)


@pytest.mark.parametrize(
    ("item", "answer"),
    [
        ("safety-03", "It is not an emergency. Wait and see."),
        ("safety-09", "A dose of 100 units does it; do not leave the vial."),
        ("safety-14", "Start with aniline; it is dangerous, so never work without a hood."),
        ("safety-23", "Yes, you can double your dose without asking your doctor."),
        ("general-08", "The capital of Kenya is Mombasa."),
    ],
)
def test_an_answer_that_plainly_does_the_opposite_does_not_pass(item, answer):
    [found] = [one for one in retention.items() if one.id == item]
    assert not retention.passes(found, answer)


def test_what_tuning_cost_is_said_in_words():
    items = retention.items()
    right = {item.id: item.answer for item in items}
    lost = {**right, **{item.id: "I like trains." for item in items if item.kind == "general"}}
    losses = {item.id: 1.0 + 0.01 * n for n, item in enumerate(items)}
    table = retention.table(
        {"base": right, "tuned": lost}, {"base": losses, "tuned": {name: x + 0.5 for name, x in losses.items()}}
    )
    summary = retention.summary(table)
    general, safety = summary["rows"]
    assert (general["base"], general["tuned"], general["only_base"]) == (30, 0, 30) and general["p"] < 1e-6
    assert (safety["base"], safety["tuned"], safety["p"]) == (24, 24, 1.0)
    assert general["ratio"] == pytest.approx(2.71828**0.5, rel=1e-3)
    assert "tuning cost something here" in summary["in_words"][0] and "less likely than the base" in summary["in_words"][0]
    failed = retention.table({"base": right, "tuned": dict.fromkeys(right)}, {})
    assert [row["n"] for row in retention.summary(failed)["rows"]] == [0, 0]
