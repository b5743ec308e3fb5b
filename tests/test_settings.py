"""Settings: what a field says of itself, the command line, files, and what fingerprints depend on."""

from typing import Annotated, Literal

import pytest
from conftest import ROOT

import dataset_preparation
import evaluation
import fine_tuning
import iterate
from meerkat_workbench.core import settings
from meerkat_workbench.core.errors import UserError
from meerkat_workbench.core.settings import EXECUTION, RESULT, SERIES, Added, OfScript, Range, Renamed


class Config(settings.Settings):
    # how many
    COUNT: int = 3
    RATE: float = 2e-4
    NAMES: list[str] = ["a", "b"]
    SHARES: dict[str, float] = {}
    LIMIT: int | None = None
    ON: bool = False
    TEXT: str = "x"
    KIND: Annotated[Literal["small", "large"], Renamed("SORT", big="large"), RESULT] = "small"
    PART: Annotated[float, Range(0, 1, exclude_low=True)] = 0.5
    MORE: dict[str, object] = {}
    OTHER: Annotated[dict[str, object], OfScript()] = {}


def refusal(*argv, **options):
    with pytest.raises(UserError) as caught:
        load(*argv, **options)
    return caught.value


def load(*argv, demo=None):
    return settings.load(Config, list(argv), "", demo or {})[0]


def test_a_value_on_the_command_line_takes_the_kind_of_its_default():
    config = load("COUNT=5", "RATE=1e-3", "NAMES=q_proj,v_proj", "SHARES={cardiology: 0.8}", "LIMIT=7", "ON=yes", "TEXT=5")
    assert settings.as_dict(config) == {
        "COUNT": 5, "RATE": 1e-3, "NAMES": ["q_proj", "v_proj"], "SHARES": {"cardiology": 0.8}, "LIMIT": 7, "ON": True, "TEXT": "5",
        "KIND": "small", "PART": 0.5, "MORE": {}, "OTHER": {},
    }  # fmt: skip


def test_a_mistyped_name_is_refused_with_the_nearest_right_one():
    refused = refusal("CUONT=5")
    assert refused.item == "CUONT" and "COUNT" in refused.remedy


@pytest.mark.parametrize("item", ["COUNT=many", "COUNT=1.5", "RATE=fast", "ON=perhaps", "SHARES=[1]", "LIMIT=x", "KIND=huge"])
def test_a_value_of_another_kind_is_refused(item):
    assert refusal(item).where == item.split("=")[0]


@pytest.mark.parametrize("value", [0, 1.5, -1])
def test_a_number_out_of_its_range_is_refused_on_the_command_line_and_in_python(value):
    assert refusal(f"PART={value}").where == "PART"
    with pytest.raises(UserError):
        Config(PART=value)


def test_a_default_that_was_edited_in_the_class_is_checked_too():
    class Edited(Config):
        PART: Annotated[float, Range(0, 1, exclude_low=True)] = 7.0

    with pytest.raises(UserError) as caught:
        Edited()
    assert caught.value.where == "PART"


def test_a_renamed_setting_and_its_former_values_are_still_accepted_and_hash_as_before(tmp_path):
    for item in ("KIND=large", "SORT=large", "SORT=big", "KIND=big"):
        assert load(item).KIND == "large"
    (tmp_path / "a.yaml").write_text("SORT: big\n")
    assert load("--config", str(tmp_path / "a.yaml")).KIND == "large"
    assert Config(SORT="big").KIND == "large"

    class Whole(settings.Settings):
        KIND: Annotated[Literal["small", "large"], Renamed("SORT", big="large"), RESULT] = "large"
        FOLDER: Annotated[str, EXECUTION] = "x"

    assert settings.with_effect(Whole(), RESULT) == {"SORT": "big"}
    assert settings.with_effect(Whole(), EXECUTION) == {"FOLDER": "x"}


def test_a_mapping_may_be_given_as_settings_are_given_to_a_script():
    assert load("MORE=LORA_RANK=16 NAME='a b'").MORE == {"LORA_RANK": 16, "NAME": "a b"}
    assert load("MORE={LORA_RANK: 16}").MORE == {"LORA_RANK": 16}


@pytest.mark.parametrize(
    "cls", [dataset_preparation.DatasetConfig, fine_tuning.TrainingConfig, evaluation.EvaluationConfig, iterate.LoopConfig]
)
def test_every_setting_of_the_scripts_says_whether_the_result_depends_on_it(cls):
    parts = [settings.with_effect(cls(), effect) for effect in settings.Effect]
    left_out = [
        field for field in settings.fields(cls).values() if field.added and field.added.value == getattr(cls(), field.name)
    ]
    assert sum(map(len, parts)) + len(left_out) == len(settings.names(cls))


def test_a_setting_that_was_added_later_is_in_the_fingerprint_only_where_it_changes_something():
    class Later(settings.Settings):
        RATE: Annotated[float, RESULT] = 0.1
        CLIP: Annotated[float, Added(0.0), RESULT] = 0.5

    assert settings.with_effect(Later(CLIP=0.0), RESULT) == {"RATE": 0.1}
    assert settings.with_effect(Later(), RESULT) == {"RATE": 0.1, "CLIP": 0.5}


def test_a_series_is_known_again_after_a_setting_was_added_and_refused_where_its_value_changed():
    from meerkat_workbench.tuning.artifacts import IterationRecord, Sizes, SplitHashes
    from meerkat_workbench.tuning.data.iteration_store import check_same_series

    def last(**series):
        return IterationRecord(iteration=1, made="", shares={}, share_base={}, sizes=Sizes({}, {}, {}, {}),
                               hashes=SplitHashes("h", "e", "t", "p"), settings=series)  # fmt: skip

    check_same_series(ROOT, [last(SEED=1)], {"SEED": 1})  # a new setting at the value that changes nothing is left out
    for before, now in (({"SEED": 1}, {"SEED": 1, "NEW": 2}), ({"SEED": 1, "NEW": 2}, {"SEED": 1})):
        with pytest.raises(UserError) as caught:
            check_same_series(ROOT, [last(**before)], now)
        assert caught.value.item == "NEW" and "--fresh" in caught.value.remedy


def test_a_mapping_given_as_name_and_value_has_the_types_of_its_setting():
    assert load("MORE=use_dora=false max_steps=100 name=x").MORE == {"use_dora": False, "max_steps": 100, "name": "x"}
    assert load("SHARES=cardiology=0.8 urology=1").SHARES == {"cardiology": 0.8, "urology": 1}
    assert refusal("SHARES=cardiology=much").where == "SHARES"
    assert load("OTHER=YEAR=2024 ON=false").OTHER == {"YEAR": "2024", "ON": "false"}  # the script reads them by its own types


def test_options_that_exclude_each_other_are_refused_together():
    flags = {"--one": {"action": "store_true"}, "--two": {"metavar": "X"}}
    config, arguments = settings.load(Config, ["--two", "x"], "", {}, flags, exclusive=("--one", "--two"))
    assert arguments.two == "x"
    with pytest.raises(UserError) as caught:
        settings.load(Config, ["--one", "--two", "x"], "", {}, flags, exclusive=("--one", "--two"))
    assert "--one" in caught.value.where and "--two" in caught.value.where


def test_the_fingerprints_of_the_scripts_depend_on_the_settings_that_they_always_did():
    """The names and values that earlier versions hashed: a finished run of theirs must be recognised."""
    assert set(settings.with_effect(dataset_preparation.DatasetConfig(), SERIES)) == {
        "HOLDOUT_SAMPLES_PER_SPECIALTY", "INITIAL_TRAIN_PERCENTAGE", "EVAL_SPLIT_SIZE", "SPECIALTY_SAMPLE_PERCENTAGES",
        "NEAR_DUPLICATE_THRESHOLD", "RANDOM_SEED"}  # fmt: skip
    assert set(settings.with_effect(fine_tuning.TrainingConfig(), RESULT)) == {
        "MODEL_NAME", "MODEL_TYPE", "LORA_RANK", "LORA_ALPHA", "LORA_DROPOUT", "LORA_TARGET_MODULES", "LOAD_IN_4BIT", "FULL_FINE_TUNING",
        "NUM_EPOCHS", "LEARNING_RATE", "WARMUP_RATIO", "LR_SCHEDULER", "OPTIMIZER", "MAX_GRAD_NORM", "WEIGHT_DECAY", "MAX_SEQ_LENGTH",
        "LONG_EXAMPLES", "EVAL_STEPS", "BEST_METRIC", "EARLY_STOPPING", "LORA_OPTIONS", "TRAINER_OPTIONS", "RANDOM_SEED"}  # fmt: skip
    scoring = settings.with_effect(
        evaluation.EvaluationConfig(BATCHING="mixed", POLICY="learning_curves", BERTSCORE_MODEL="packaged"), RESULT
    )
    assert set(scoring) == {
        "MAX_NEW_TOKENS", "TEMPERATURE", "BATCH_SIZE", "BERTSCORE_MODEL", "MAX_SAMPLES_PER_SPECIALTY", "STEERING_METRIC", "POLICY",
        "BUDGET", "OBJECTIVE", "LOAD_IN_4BIT", "MODELS", "ENDPOINT", "ENDPOINT_MODELS", "JUDGE", "ARMS", "REFILL", "RETENTION",
        "RANDOM_SEED", "FEW_SHOT_EXAMPLES", "PREFERENCE_DISTRACTORS"}  # fmt: skip
    earlier = settings.with_effect(evaluation.EvaluationConfig(FEW_SHOT_EXAMPLES=0, PREFERENCE_DISTRACTORS=0), RESULT)
    assert not {"FEW_SHOT_EXAMPLES", "PREFERENCE_DISTRACTORS"} & set(earlier)
    assert (scoring["ARMS"], scoring["POLICY"], scoring["BERTSCORE_MODEL"]) == ("together", "learning curves", "embedded")


def test_assigning_in_python_is_checked_like_the_command_line():
    config = Config()
    with pytest.raises(UserError) as caught:
        config.RAET = 1.0
    assert "RATE" in caught.value.remedy
    for assign in (lambda: setattr(Config, "COUNT", "three"), lambda: Config(COUNT=True)):
        with pytest.raises(UserError) as caught:
            assign()
        assert caught.value.where == "Config.COUNT"


def test_the_command_line_wins_over_the_file_the_file_over_demo_and_demo_over_the_class(tmp_path):
    file = tmp_path / "my.yaml"
    file.write_text("COUNT: 20\nRATE: 2e-3\n")
    config = load("--demo", "--config", str(file), "COUNT=30", demo={"COUNT": 10, "RATE": 1.0, "TEXT": "demo"})
    assert (config.COUNT, config.RATE, config.TEXT, config.ON) == (30, 2e-3, "demo", False)


def test_a_class_of_the_users_own_with_some_names_keeps_the_other_defaults():
    class Mine:
        COUNT = 9

    assert settings.resolve(Mine, Config).COUNT == 9
    assert settings.resolve(Mine(), Config).RATE == 2e-4


def test_instances_do_not_share_lists_with_the_class():
    Config().NAMES.append("c")
    assert Config().NAMES == ["a", "b"]


@pytest.mark.parametrize("cls", [dataset_preparation.DatasetConfig, fine_tuning.TrainingConfig, evaluation.EvaluationConfig])
def test_every_setting_of_the_scripts_has_a_default_of_its_kind_and_nearly_all_a_comment(cls):
    settings.as_dict(cls())
    explained = settings.comments(cls)
    bare = [name for name in settings.names(cls) if not explained.get(name)]
    assert set(bare) <= {"WEIGHT_DECAY", "RANDOM_SEED"}, bare


def test_the_specifications_defaults_are_the_defaults():
    data, training, scoring = dataset_preparation.DatasetConfig(), fine_tuning.TrainingConfig(), evaluation.EvaluationConfig()
    assert (data.HOLDOUT_SAMPLES_PER_SPECIALTY, data.INITIAL_TRAIN_PERCENTAGE, data.EVAL_SPLIT_SIZE) == (10, 0.5, 0.2)
    assert (training.LORA_RANK, training.LORA_ALPHA, training.LORA_TARGET_MODULES) == (8, 16, ["q_proj", "v_proj"])
    assert (training.NUM_EPOCHS, training.BATCH_SIZE, training.LEARNING_RATE) == (3, 4, 2e-4)
    assert training.MODEL_NAME == "dmis-lab/llama-3-meerkat-8b-v1.0"
    assert (scoring.MAX_NEW_TOKENS, scoring.TEMPERATURE) == (512, 0.1)
    assert scoring.BERTSCORE_MODEL == "microsoft/deberta-xlarge-mnli"


@pytest.mark.parametrize("preset", sorted((ROOT / "presets").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_preset_is_a_configuration_that_training_accepts(preset):
    config, _ = settings.load(fine_tuning.TrainingConfig, ["--config", str(preset)], "", {}, {})
    fine_tuning.check(config)
    assert config.MODEL_NAME in preset.read_text()


def test_the_arguments_that_give_settings_are_few_and_are_read_as_what_was_meant():
    demo = {"COUNT": 7, "TEXT": "sample"}
    assert settings.as_arguments(Config(), demo) == []
    assert settings.as_arguments(Config(COUNT=5), demo) == ["COUNT=5"]
    assert settings.as_arguments(Config(**demo), demo) == ["--demo"]
    assert settings.as_arguments(Config(**demo, RATE=0.5, ON=True), demo) == ["--demo", "RATE=0.5", "ON=True"]
    wanted = Config(NAMES=["x y", "z"], SHARES={"a": 0.5}, TEXT="two words", LIMIT=3, ON=True)
    config, _ = settings.load(Config, settings.as_arguments(wanted, demo), "", demo)
    assert settings.as_dict(config) == settings.as_dict(wanted)


def test_the_next_command_names_only_folders_that_are_not_where_the_next_script_looks():
    def said(with_demo=False, **values):
        return settings.next_command("run.py", Config(**values), {"TEXT": "sample"}, {"TEXT": "FOLDER"}, with_demo=with_demo)

    assert said() == "python run.py" and said(with_demo=True, TEXT="sample") == "python run.py --demo"
    assert said(TEXT="my files") == "python run.py 'FOLDER=my files'"
    assert said(with_demo=True, TEXT="other") == "python run.py --demo FOLDER=other"


def test_the_home_folder_is_expanded_wherever_a_path_may_be_given(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / "a.yaml"
    file.write_text("OUTPUT_DIR: ~/out\nCONTAMINATION_SETS: [~/a, b]\n")
    config, arguments = settings.load(dataset_preparation.DatasetConfig, ["--config", "~/a.yaml", "DATA_DIR=~/data"], "", {})
    assert (
        f"{tmp_path}/out",
        f"{tmp_path}/data",
        [f"{tmp_path}/a", "b"],
    ) == (config.OUTPUT_DIR, config.DATA_DIR, config.CONTAMINATION_SETS)
    assert str(tmp_path) == dataset_preparation.DatasetConfig(OUTPUT_DIR="~").OUTPUT_DIR
    assert dataset_preparation.DatasetConfig(SYSTEM_MESSAGE="~5 words").SYSTEM_MESSAGE == "~5 words"


@pytest.mark.parametrize("text", ["DATA_DIR: a\nDATA_DIR: b\n", "SPECIALTY_SAMPLE_PERCENTAGES: {a: 0.1, a: 0.2}\n"])
def test_a_yaml_key_that_is_given_twice_is_refused(tmp_path, text):
    file = tmp_path / "a.yaml"
    file.write_text(text)
    with pytest.raises(UserError) as caught:
        settings.load(dataset_preparation.DatasetConfig, ["--config", str(file)], "", {})
    assert caught.value.where == str(file)
    with pytest.raises(UserError) as caught:
        settings.load(dataset_preparation.DatasetConfig, ["SPECIALTY_SAMPLE_PERCENTAGES={a: 0.1, a: 0.2}"], "", {})
    assert caught.value.where == "SPECIALTY_SAMPLE_PERCENTAGES"


def test_a_configuration_may_begin_with_a_byte_order_mark(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_bytes(b"\xef\xbb\xbfDATA_DIR: here\n")
    assert settings.load(dataset_preparation.DatasetConfig, ["--config", str(file)], "", {})[0].DATA_DIR == "here"


def test_lists_are_taken_as_they_are_typed_and_merge_keys_of_yaml_work(tmp_path):
    cls = dataset_preparation.DatasetConfig
    for text, wanted in (
        ("01,NA", ["01", "NA"]),
        ("01", ["01"]),
        ("NO", ["NO"]),
        ("ear #1", ["ear #1"]),
        ("[a, b]", ["a", "b"]),
        ("", []),
    ):
        assert wanted == settings.load(cls, [f"SPECIALTIES={text}"], "", {})[0].SPECIALTIES
    assert settings.yaml_value("a: &b {x: 1}\nc: {<<: *b, y: 2}\n")["c"] == {"x": 1, "y": 2}
    with pytest.raises(UserError) as caught:
        settings.load(cls, ["SPECIALTIES=[!!timestamp x]"], "", {})
    assert caught.value.where == "SPECIALTIES"


def test_an_empty_folder_name_is_refused(tmp_path):
    with pytest.raises(UserError) as caught:
        settings.load(dataset_preparation.DatasetConfig, ["OUTPUT_DIR="], "", {})
    assert caught.value.where == "OUTPUT_DIR"


def test_a_configuration_in_another_encoding_is_read_or_named(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_bytes("DATA_DIR: über\n".encode("utf-16"))
    assert settings.load(dataset_preparation.DatasetConfig, ["--config", str(file)], "", {})[0].DATA_DIR == "über"
    file.write_bytes("DATA_DIR: über\n".encode("cp1252"))
    with pytest.raises(UserError) as caught:
        settings.load(dataset_preparation.DatasetConfig, ["--config", str(file)], "", {})
    assert caught.value.where == str(file)


@pytest.mark.parametrize(
    "given",
    [
        ["LORA_RANK=16", "NUM_EPOCHS=5", "LORA_TARGET_MODULES=a,b"], ["LORA_RANK=16,NUM_EPOCHS=5,LORA_TARGET_MODULES=a,b"],
        ["LORA_RANK=16 NUM_EPOCHS=5  LORA_TARGET_MODULES=a,b"], ['["LORA_RANK=16", "NUM_EPOCHS=5", "LORA_TARGET_MODULES=a,b"]'],
    ],
)  # fmt: skip
def test_overrides_are_read_one_by_one_by_comma_by_space_and_as_a_json_list(given):
    assert settings.split_overrides(given) == ["LORA_RANK=16", "NUM_EPOCHS=5", "LORA_TARGET_MODULES=a,b"]
