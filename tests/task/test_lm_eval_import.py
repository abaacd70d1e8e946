"""Tasks of lm-evaluation-harness: what is made of them, what is refused, and that prompts, log-probabilities and scores are the same.

What they are there stands in ``lm_eval/reference.json``, written by ``lm_eval/reference.py``.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from real_data import shared
from typer.testing import CliRunner

from bench.errors import BenchError
from bench.metric.exact import ExactText
from bench.metric.score import score
from bench.model.language_model import LanguageModel
from bench.model.load import load_model
from bench.model.source import EMBEDDED, locate
from bench.run.ask import Answered, Asker, to_answers
from bench.strategy.prompt import build_messages, draw_shots, shape_answers
from bench.strategy.spec import Strategy, load_strategy
from bench.task.lm_eval import import_lm_eval
from bench.task.load import load_task
from bench.task.schema import AnswerPattern, Matching

FILES = Path(__file__).parent / "lm_eval"
REFERENCE = json.loads((FILES / "reference.json").read_text())
ONE_SPLIT = ("held", "samples")
"""Tasks whose rows to learn from are the first half of the scored ones."""
SAME_NAMES = {"acc": "accuracy", "acc_norm": "accuracy_normalized", "acc_bytes": "accuracy_per_byte", "exact_match": "exact_text"}


@pytest.fixture(scope="module")
def models() -> dict[str, LanguageModel]:
    """By name, filled as they are asked for."""
    return {}


def model_named(models: dict[str, LanguageModel], name: str) -> LanguageModel:
    if name not in models:
        models[name] = load_model(locate(EMBEDDED if name == "base_model" else str(shared("models") / name)))
    return models[name]


def asked_text(model: LanguageModel, messages: list[dict[str, str]], reference: dict[str, Any]) -> str:
    """The prompt as there: the spaces at the end of a plain prompt are part of what is scored on both sides, here as `before_answer`."""
    first = reference["first_prompt"]
    taken = first[len(first.rstrip()) :] if "logprobs" in reference["items"][0] and not reference["chat"] else ""
    assert model.before_answer.startswith(taken)
    return model._text(messages) + taken


def name_of(reference: dict[str, Any]) -> str:
    name = f"{reference['model']}-{'chat' if reference['chat'] else 'plain'}-{reference['task']}"
    return f"{name}-{reference['filter']}" if reference["filter"] else name


@pytest.mark.parametrize("reference", REFERENCE["results"], ids=name_of)
def test_prompts_logprobs_and_scores_are_those_of_lm_eval(
    reference: dict[str, Any], models: dict[str, LanguageModel], tmp_path: Path
) -> None:
    model = model_named(models, reference["model"])
    folder = tmp_path / reference["task"]
    hold_out = 0.5 if reference["task"] in ONE_SPLIT else None
    import_lm_eval(
        FILES / f"{reference['task']}.yaml", folder, chat=reference["chat"], filter_name=reference["filter"], hold_out=hold_out
    )
    task = load_task(folder)
    own = sorted(folder.glob("lm-eval-*.yaml"))
    strategy = load_strategy(str(own[0]))[1] if own else Strategy()
    shape_answers(model, task, strategy.prompt)
    asker = Asker(task, strategy, model, tmp_path / "stores", draw_shots(task, strategy.prompt.shots, 0))
    requests = asker.asked(task.test)
    ids = [r.prompt.ids for r in requests]
    if task.config.kind == "multiple_choice":
        options = [r.options for r in requests]
        batches = model.choose(ids, options, model.option_ids([r.prompt.messages for r in requests], ids, options))
    else:
        batches = model.generate(ids, task.config.max_new_tokens)
    found = dict(pair for batch in batches for pair in batch)
    answered = [Answered(i, found[i], requests[i], asker.parsed(found[i].text)) for i in range(len(requests))]
    scores = score(task, to_answers(task, task.test, answered), task.config.metrics).items

    texts = [asked_text(model, list(r.prompt.messages), reference) for r in requests]
    assert len(reference["items"]) == 6
    assert [e.id for e in task.test] == [str(i) for i in range(3 if hold_out else 0, 6)]
    if not hold_out:
        assert texts[0] == reference["first_prompt"]
    for i, expected in enumerate(reference["items"][-len(texts) :]):
        assert hashlib.sha256(texts[i].encode()).hexdigest() == expected["prompt"]
        if "logprobs" in expected:
            assert found[i].option_logprobs == pytest.approx(expected["logprobs"], abs=1e-3)
        else:
            assert (found[i].text, answered[i].parsed.answer) == (expected["text"], expected["answer"])
        assert scores[i] == {SAME_NAMES[name]: value for name, value in expected["scores"].items()}


# ---------------------------------------------------------------------------------------------- what is made, and what is refused


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A copy of the task files, to be changed."""
    return Path(shutil.copytree(FILES, tmp_path / "source"))


def changed(source: Path, task: str, **keys: Any) -> Path:
    """A task file with other keys; a key that is None is left out."""
    path = source / "changed.yaml"
    kept = {key: value for key, value in (yaml.safe_load((source / f"{task}.yaml").read_text()) | keys).items() if value is not None}
    path.write_text(yaml.safe_dump(kept))
    return path


def test_the_command_makes_a_task_that_loads_and_says_what_is_not_equal(source: Path, tmp_path: Path) -> None:
    import typer

    from bench.task.lm_eval_cli import register

    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)
    file = changed(source, "letters", fewshot_config={"sampler": "default"})
    result = CliRunner().invoke(app, ["import-lm-eval", str(file), "-o", str(tmp_path / "tasks" / "mine")])
    assert result.exit_code == 0, result.output
    assert "8 train, 2 validation, 6 test" in result.output
    assert "drawn here once per seed" in result.output
    task = load_task(tmp_path / "tasks" / "mine")
    assert task.config.layout is not None
    assert task.config.layout.shots == "drawn"
    assert [e.id for e in task.test] == ["0", "1", "2", "3", "4", "5"]
    assert load_strategy(str(tmp_path / "tasks" / "mine" / "lm-eval-2-shot.yaml"))[1].prompt.shots == 2
    assert sorted(p.name for p in (tmp_path / "tasks").iterdir()) == ["mine"]  # nothing half made is left


def test_the_command_takes_a_filter_and_a_share_to_hold_out(tmp_path: Path) -> None:
    import typer

    from bench.task.lm_eval_cli import register

    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)
    for flags in (["extracts", "--filter", "flexible"], ["held", "--hold-out", "0.5"]):
        result = CliRunner().invoke(app, ["import-lm-eval", str(FILES / f"{flags[0]}.yaml"), "-o", str(tmp_path / flags[0]), *flags[1:]])
        assert result.exit_code == 0, result.output
    layout = load_task(tmp_path / "extracts").config.layout
    assert layout is not None
    assert layout.clean[::2] == ["uppercase", "lowercase"]
    assert len(load_task(tmp_path / "held").test) == 3


def test_shots_are_the_first_rows_for_every_seed_and_smaller_budget(tmp_path: Path) -> None:
    import_lm_eval(FILES / "letters.yaml", tmp_path / "letters")
    task = load_task(tmp_path / "letters", train_examples=3)
    assert [shot.id for shot in draw_shots(task, 2, 0)] == [shot.id for shot in draw_shots(task, 2, 7)] == ["0", "1"]
    assert [e.id for e in task.train] == ["0", "1", "2"]


def test_data_files_are_looked_for_in_the_folder_given(source: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for file in source.glob("products.*"):
        file.rename(elsewhere / file.name)
    with pytest.raises(BenchError, match=r'data_files: found no "products.train.jsonl" in '):
        import_lm_eval(source / "letters.yaml", tmp_path / "made")
    import_lm_eval(source / "letters.yaml", tmp_path / "made", data=elsewhere)
    assert len(load_task(tmp_path / "made").test) == 6


def test_a_split_for_validation_is_taken_and_no_training_row_held_out(source: Path, tmp_path: Path) -> None:
    shutil.copy(source / "grams.dev.csv", source / "grams.validation.csv")
    files = {split: f"grams.{split}.csv" for split in ("dev", "validation", "test")}
    import_lm_eval(changed(source, "grams", dataset_kwargs={"data_files": files}, validation_split="validation"), tmp_path / "made")
    task = load_task(tmp_path / "made")
    assert (len(task.train), len(task.validation), len(task.test)) == (5, 5, 6)


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("texts", {"process_docs": "utils.py"}, "process_docs: has no counterpart here"),
    ("texts", {"gen_prefix": "{{ '' }}"}, 'row 0: gen_prefix: found "", expected a text in every row'),
    ("texts", {"gen_prefix": "{{ 'So: ' if gold else 'So:' }}"}, "gen_prefix: found texts with a space at their end and without one"),
    ("texts", {"gen_prefix": "So: ", "num_fewshot": 1}, 'target_delimiter: found " ", expected "", by which worked examples join'),
    ("texts", {"metric_list": [{"metric": "acc", "ignore_case": True}]}, "metric_list: acc: found what to ignore"),
    ("grams", {"metric_list": [{"metric": "exact_match", "weight_by_size": True}]}, "exact_match: found weight_by_size"),
    ("grams", {"filter_list": [{"name": "a", "filter": [{"function": "majority_vote"}, {"function": "take_first"}]},
                               {"name": "b", "filter": [{"function": "take_first"}]}]}, 'found "majority_vote"'),
    ("samples", {"fewshot_config": {"samples": [{"answer": "red"}]}}, "fewshot_config.samples: expected sampler first_n beside it"),
    ("samples", {"fewshot_config": {"sampler": "first_n", "samples": []}}, "fewshot_config.samples: found"),
    ("samples", {"fewshot_split": "test"}, "fewshot_config.samples: found a split for worked examples too"),
    ("samples", {"num_fewshot": 4}, "fewshot_config.samples: found 3, expected 4 or more"),
    ("samples", {"training_split": "test", "test_split": None, "validation_split": "test"}, "training_split: is missing"),
    ("texts", {"doc_to_txt": "x"}, 'unknown key "doc_to_txt"; did you mean "doc_to_text"'),
    ("texts", {"output_type": "loglikelihood_rolling"}, 'output_type: found "loglikelihood_rolling"'),
    ("texts", {"metric_list": [{"metric": "f1"}]}, "metric_list: f1: has no counterpart here for multiple_choice"),
    ("texts", {"metric_list": [{"metric": "acc", "aggregation": "median"}]}, "metric_list: acc: expected aggregation mean"),
    ("texts", {"metric_list": []}, "metric_list: is empty"),
    ("texts", {"description": "About {{product}}"}, "description: found Jinja"),
    ("texts", {"doc_to_choice": None}, "doc_to_choice: is missing"),
    ("texts", {"doc_to_choice": [" A", " B"], "doc_to_target": 0}, 'row 0: doc_to_choice: found " A"'),
    ("texts", {"doc_to_choice": "{{product}}"}, "row 0: doc_to_choice: found .*, expected a list of texts"),
    ("texts", {"doc_to_text": "{{nothing}}"}, "row 0: doc_to_text: the template fails .*'nothing' is undefined"),
    ("texts", {"doc_to_text": "{{ ''.__class__.__mro__ }}"}, "row 0: doc_to_text: the template fails .SecurityError"),
    ("texts", {"doc_to_text": "{{gold}}"}, "one input per choice has no counterpart"),
    ("texts", {"doc_to_text": "{{about}}{{' ' if gold else ''}}"}, "doc_to_text: found inputs that end with different spaces"),
    ("texts", {"doc_to_target": "{{product}}"}, "expected one of the item's 4 options"),
    ("texts", {"training_split": None, "fewshot_split": None, "include": None, "dataset_path": "json", "test_split": "test",
               "dataset_kwargs": {"data_files": {"test": "products.test.jsonl"}}}, "training_split: is missing"),
    ("texts", {"test_split": "tset"}, 'the data have no split "tset"; did you mean "test"'),
    ("texts", {"fewshot_config": {"sampler": "balanced"}}, 'fewshot_config.sampler: found "balanced"'),
    ("texts", {"dataset_kwargs": {"data_files": "https://", "streaming": True}}, 'unknown key "dataset_kwargs.streaming"'),
    ("texts", {"num_fewshot": 10}, "validation_split: is missing, and the 10 training rows are too few"),
    ("texts", {"include": "changed.yaml"}, "include: the file includes itself"),
    ("texts", {"include": "missing.yaml"}, "include: there is no file"),
    ("grams", {"generation_kwargs": {"do_sample": True}}, "generation_kwargs: found sampling"),
    ("grams", {"generation_kwargs": {"temperature": 0.7}}, "generation_kwargs: found sampling"),
    ("grams", {"generation_kwargs": {"top_p": 0.7}}, 'unknown key "generation_kwargs.top_p"'),
    ("grams", {"repeats": 3}, "repeats: found more than one answer"),
    ("grams", {"filter_list": [{"name": "a", "filter": [{"function": "majority_vote"}]}]}, 'found "majority_vote"'),
    ("grams", {"filter_list": [{"name": "a", "filter": [{"function": "regex"}]}]}, "filter_list: expected take_first at its end"),
    ("grams", {"filter_list": [{"name": "a", "filter": [{"function": "regex", "regex_pattern": "("}, {"function": "take_first"}]}]},
     "regular expression '\\('"),
    ("grams", {"doc_to_target": " {{grams}}"}, "doc_to_target: found .*, expected a text with no space at its ends"),
]  # fmt: skip


@pytest.mark.parametrize(("task", "keys", "message"), REFUSED, ids=[f"{i}-{min(keys)}" for i, (_, keys, _) in enumerate(REFUSED)])
def test_what_has_no_counterpart_is_refused_in_one_line(
    source: Path, tmp_path: Path, task: str, keys: dict[str, Any], message: str
) -> None:
    with pytest.raises(BenchError, match=message) as raised:
        import_lm_eval(changed(source, task, **keys), tmp_path / "made")
    assert "\n" not in str(raised.value)
    assert "source/changed.yaml" in str(raised.value)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("task", "keys", "flags", "message"),
    [
        ("extracts", {}, {"filter_name": "flexibel"}, 'found "flexibel"; did you mean "flexible"'),
        ("letters", {}, {"filter_name": "strict"}, '--filter: found "strict", expected none, since filter_list names no filter'),
        ("letters", {}, {"hold_out": 0.5}, '--hold-out: found 0.5, expected none, since the task has rows to learn from ("train")'),
        ("held", {}, {}, "(--hold-out 0.2 sets a fifth of them apart)"),
        ("held", {}, {"hold_out": 1.0}, "--hold-out: found 1.0, expected a share between 0 and 1"),
        ("held", {}, {"hold_out": 0.1}, "the 0 training rows are too few"),
        ("begun", {}, {"chat": True}, "gen_prefix: has no counterpart with --chat"),
        ("samples", {"doc_to_text": "{{about}} {{nothing}}"}, {"hold_out": 0.5}, "test, row 0: doc_to_text: the template fails"),
        ("samples", {"doc_to_target": "options"}, {"hold_out": 0.5}, 'samples, row 0: doc_to_target: found no column "options", which the'),
    ],
)
def test_a_flag_that_does_not_fit_the_task_is_refused_in_one_line(
    source: Path, tmp_path: Path, task: str, keys: dict[str, Any], flags: dict[str, Any], message: str
) -> None:
    with pytest.raises(BenchError) as raised:
        import_lm_eval(changed(source, task, **keys), tmp_path / "made", **flags)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    assert "source/changed.yaml" in str(raised.value)
    assert not (tmp_path / "made").exists()


def test_the_first_filter_is_taken_and_the_others_are_named(tmp_path: Path) -> None:
    said = import_lm_eval(FILES / "extracts.yaml", tmp_path / "made")
    assert any(line.startswith('filter: "strict" of strict, flexible;') for line in said)
    layout = load_task(tmp_path / "made").config.layout
    assert layout is not None
    assert layout.clean == [AnswerPattern(regex=r"#### (\d+)", fallback="none")]


def test_a_filter_of_code_does_not_matter_where_another_is_taken(source: Path, tmp_path: Path) -> None:
    text = (source / "extracts.yaml").read_text().replace("function: uppercase", "function: !function utils.wrong")
    (source / "extracts.yaml").write_text(text)
    import_lm_eval(source / "extracts.yaml", tmp_path / "made", filter_name="strict")
    with pytest.raises(BenchError, match=r"filter_list.0.filter.0.function: found a !function"):
        import_lm_eval(source / "extracts.yaml", tmp_path / "other", filter_name="flexible")


def test_samples_are_the_first_rows_of_train_and_all_stay_there(tmp_path: Path) -> None:
    said = import_lm_eval(FILES / "samples.yaml", tmp_path / "made", hold_out=0.5)
    task = load_task(tmp_path / "made")
    assert [shot.targets[0].split(".")[0] for shot in draw_shots(task, 3, 5)] == ["pink", "Graz", "gold"]
    assert (len(task.train), len(task.validation), len(task.test)) == (5, 1, 3)
    assert 'rows to learn from: 3 of 6 of "test", the first; the others are scored' in said
    assert any("(samples + held out rows)" in line for line in said)


def test_rows_held_out_are_drawn_by_a_fixed_rule_without_first_n(source: Path, tmp_path: Path) -> None:
    file = changed(source, "held", fewshot_config={"sampler": "default"}, num_fewshot=0)
    for name in ("a", "b"):
        assert any("drawn by a fixed rule" in line for line in import_lm_eval(file, tmp_path / name, hold_out=0.5))
    tasks = [load_task(tmp_path / name) for name in ("a", "b")]
    assert tasks[0].fingerprint == tasks[1].fingerprint
    assert len(tasks[0].test) == 3
    asked = [e.input for e in (*tasks[0].train, *tasks[0].validation, *tasks[0].test)]
    assert len(asked) == 6
    rows = [json.loads(line)["about"] for line in (FILES / "products.test.jsonl").read_text().splitlines()]
    assert all(rows[int(e.id)] in e.input for e in tasks[0].test)


def test_a_configuration_of_a_data_set_is_read(source: Path, tmp_path: Path) -> None:
    names = "- config_name: {0}\n  data_files:\n  - {{split: dev, path: {0}/dev.csv}}\n  - {{split: test, path: {0}/test.csv}}\n"
    (source / "weights").mkdir()
    (source / "weights" / "README.md").write_text(f"---\nconfigs:\n{names.format('light')}{names.format('heavy')}---\n")
    for config, grams in (("light", "7"), ("heavy", "9000")):
        (source / "weights" / config).mkdir()
        for split in ("dev", "test"):
            (source / "weights" / config / f"{split}.csv").write_text("text,grams\n" + f"Torsol is {split}.,{grams}\n" * 5)
    file = changed(source, "grams", dataset_path="weights", dataset_name="heavy", dataset_kwargs=None)
    import_lm_eval(file, tmp_path / "made")
    assert {e.targets for e in load_task(tmp_path / "made").test} == {("9000 grams",)}
    with pytest.raises(BenchError, match=r"dataset_path: .*BuilderConfig 'hevy' not found. Available: \['light', 'heavy'\]"):
        import_lm_eval(changed(source, "grams", dataset_path="weights", dataset_name="hevy", dataset_kwargs=None), tmp_path / "other")


def test_what_has_no_effect_on_one_task_is_taken(source: Path, tmp_path: Path) -> None:
    (source / "above.yaml").write_text("include: letters.yaml\ntask_list: [{task: x}]\n")
    path = changed(source, "letters", include="above.yaml", metric_list=[{"metric": "acc", "weight_by_size": True}])
    import_lm_eval(path, tmp_path / "made")
    assert load_task(tmp_path / "made").config.metrics == ["accuracy"]


def test_a_function_is_not_run_and_its_key_is_named(source: Path, tmp_path: Path) -> None:
    text = (source / "letters.yaml").read_text().replace("- {metric: acc,", "- {metric: !function utils.wrong,")
    (source / "letters.yaml").write_text(text)
    with pytest.raises(BenchError, match=r"letters.yaml: metric_list.0.metric: found a !function"):
        import_lm_eval(source / "letters.yaml", tmp_path / "made")


def test_a_value_that_holds_itself_is_refused(source: Path, tmp_path: Path) -> None:
    (source / "letters.yaml").write_text((source / "letters.yaml").read_text() + "tag: &a [*a]\n")
    with pytest.raises(BenchError, match=r"letters.yaml: tag: found an alias of itself"):
        import_lm_eval(source / "letters.yaml", tmp_path / "made")


def test_a_folder_that_exists_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="exists already"):
        import_lm_eval(FILES / "letters.yaml", tmp_path)


# ---------------------------------------------------------------------------------------------- the parts


@pytest.mark.parametrize(
    ("pattern", "text", "answer"),
    [
        (AnswerPattern(regex=r"#### (\d+)"), "so #### 12 or #### 13", "12"),
        (AnswerPattern(regex=r"(\d+)", match=-1), "12 and 13", "13"),
        (AnswerPattern(regex=r"(\d+)"), "none", "[invalid]"),
        (AnswerPattern(regex=r"(a)|(b)"), "xb", "b"),
        (AnswerPattern(regex=r"\d+", match=2, fallback="?"), "1 2", "?"),
    ],
)
def test_a_pattern_finds_the_answer(pattern: AnswerPattern, text: str, answer: str) -> None:
    assert pattern.find(text) == answer


@pytest.mark.parametrize(
    ("matching", "prediction", "target", "equal"),
    [
        (None, " red", "red", 0.0),
        (None, "The red", "red", 0.0),
        (Matching(ignore_case=True), "Red", "red", 1.0),
        (Matching(ignore_punctuation=True), "red.", "red", 1.0),
        (Matching(ignore_numbers=True), "red 1", "red 2", 1.0),
        (Matching(remove=[",", r"\$"]), "$1,000", "1000", 1.0),
        (Matching(remove=["red"], ignore_case=True), "Red", "", 0.0),  # expressions come first, and have case
    ],
)
def test_exact_text_ignores_what_it_is_told_to(matching: Matching | None, prediction: str, target: str, equal: float) -> None:
    assert ExactText(matching=matching).match(prediction, target) == equal


def test_a_task_trained_in_a_layout_goes_on_from_the_same_prompt(models: dict[str, LanguageModel], tmp_path: Path) -> None:
    import_lm_eval(FILES / "texts.yaml", tmp_path / "texts")
    task = load_task(tmp_path / "texts")
    model = model_named(models, "base_model")
    shape_answers(model, task, Strategy().prompt)
    messages = build_messages(task, task.train[0].input)
    ids, n = model.training_ids(messages, task.train[0].targets[0])
    assert ids[:n] == model.prompt_ids(messages)
    assert model.tokenizer.decode(ids[n:]) == f" {task.train[0].targets[0]}<|end|>"


def test_a_chat_layout_needs_a_chat_template(models: dict[str, LanguageModel], tmp_path: Path) -> None:
    import_lm_eval(FILES / "texts.yaml", tmp_path / "texts", chat=True)
    task = load_task(tmp_path / "texts")
    asker = Asker(task, Strategy(), model_named(models, "stories260K"), tmp_path / "stores", ())
    with pytest.raises(BenchError, match=r"layout.chat: .* has no chat template"):
        asker.asked(task.test)
