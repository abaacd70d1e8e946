"""The generated tasks: same seed same bytes, and each promise of their data cards."""

import json
import random
from collections import Counter
from pathlib import Path

import jinja2
import pytest
import yaml

from bench.errors import BenchError
from bench.task.schema import TaskConfig
from bench.world import entities as e
from bench.world import tasks
from bench.world import text as t
from bench.world.draft import Draft, Row
from bench.world.episodes import KINDS, LABELS

COMMITTED = Path(__file__).parents[2] / "tasks"
SPLITS = ("train", "validation", "test")
SEEDS = (tasks.TASKS_SEED, 1, 2)


def drafts(name: str) -> list[Draft]:
    return [tasks.TASKS[name](random.Random(f"{seed}/{name}")) for seed in SEEDS]


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def splits(draft: Draft) -> dict[str, list[Row]]:
    return {"train": draft.train, "validation": draft.validation, "test": draft.test}


def test_same_seed_same_bytes_and_another_seed_other_bytes(tmp_path: Path) -> None:
    for folder, seed in (("a", 5), ("b", 5), ("c", 6)):
        tasks.make_tasks(tmp_path / folder, seed)
    a, b, c = (files(tmp_path / x) for x in "abc")
    assert a == b
    assert a.keys() == c.keys()
    assert all(a[name] != c[name] for name in a if name.endswith(".jsonl"))


def test_committed_tasks_are_what_the_generator_writes(tmp_path: Path) -> None:
    tasks.make_tasks(tmp_path, tasks.TASKS_SEED)
    for name, content in files(tmp_path).items():
        assert (COMMITTED / name).read_bytes() == content, f"tasks/{name} differs: run bench world make-tasks --seed {tasks.TASKS_SEED}"


@pytest.mark.parametrize("name", tasks.TASKS)
def test_settings_are_valid_and_name_columns_that_every_row_has(name: str) -> None:
    for draft in drafts(name):
        config = TaskConfig(**draft.config)
        columns = {c for c in (config.target, config.evidence, config.rationale, config.cluster, *config.slices) if c}
        for rows in splits(draft).values():
            assert all(columns <= row.keys() for row in rows)
            assert all(row[c] in {"yes", "no"} for row in rows for c in config.slices if c in ("aside", "answerable"))
    committed = yaml.safe_load((COMMITTED / name / "task.yaml").read_text(encoding="utf-8"))
    assert TaskConfig(**committed) == TaskConfig(**drafts(name)[0].config)


@pytest.mark.parametrize("name", tasks.TASKS)
def test_sizes_ids_and_no_question_in_two_splits(name: str) -> None:
    for draft in drafts(name):
        sizes = {"product_support": 200, "ticket_triage": 200, "abstract_summary": 84, "review_feedback": 60, "product_reasoning": 200}
        train = sizes[name]
        assert [len(rows) for rows in splits(draft).values()] == [train, 200, 400]
        template = jinja2.Template(draft.config["input"])
        inputs: Counter[str] = Counter()
        for rows in splits(draft).values():
            assert len({row["id"] for row in rows}) == len(rows)
            inputs.update({template.render(row) for row in rows})
        assert max(inputs.values()) == 1
        assert len(inputs) == train + 600, "an input occurs twice within a split"


def test_card_states_the_command_and_the_licence() -> None:
    for name in tasks.TASKS:
        card = (COMMITTED / name / "README.md").read_text(encoding="utf-8")
        assert f"bench world make-tasks --seed {tasks.TASKS_SEED}" in card
        assert "Apache-2.0" in card


def test_unwritable_folder_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BenchError, match=r"file/product_support: cannot be written .* expected a writable folder"):
        tasks.make_tasks(tmp_path / "file", 1)


# ---------------------------------------------------------------------------------------------- product_support


def form(row: Row) -> str:
    return str(row["question"]).replace(row["product"], "{n}").replace(e.ATTRIBUTE[row["attribute"]].noun, "{a}")


@pytest.mark.parametrize("draft", drafts("product_support"), ids=map(str, SEEDS))
class TestProductSupport:
    def test_products_are_new_and_distractors_have_similar_names(self, draft: Draft) -> None:
        assert draft.corpus is not None
        documented = [row["product"] for row in draft.corpus]
        asked = {row["product"] for rows in splits(draft).values() for row in rows}
        assert len(documented) == len(set(documented)) == 60
        assert set(documented) <= set(e.names("new"))
        assert len(asked) == 40
        distractors = set(documented) - asked
        assert len(distractors) == 20
        assert {d.split()[0] for d in distractors} <= {a.split()[0] for a in asked}

    def test_evidence_states_the_answer_and_no_page_states_an_unanswerable_attribute(self, draft: Draft) -> None:
        assert draft.corpus is not None
        page = {row["id"]: row for row in draft.corpus}
        by_product = {row["product"]: row["text"] for row in draft.corpus}
        for rows in splits(draft).values():
            for row in rows:
                (document,) = row["document_ids"]
                assert page[document]["product"] == row["product"]
                if row["answerable"] == "yes":
                    assert row["answers"][0] in page[document]["text"]
                else:
                    assert row["answers"] == []
                    assert not any(value in by_product[row["product"]].split() for value in e.ATTRIBUTE[row["attribute"]].values)

    def test_corpus_facts_are_never_asked_in_train(self, draft: Draft) -> None:
        trained = {(r["product"], r["attribute"]) for r in draft.train}
        for rows in (draft.validation, draft.test):
            for row in rows:
                assert ((row["product"], row["attribute"]) in trained) == (row["facts"] == "seen")

    def test_wordings(self, draft: Draft) -> None:
        trained = {(r["attribute"], form(r)) for r in draft.train}
        held_out = set(e.HELD_OUT_QUESTIONS)
        for rows in (draft.validation, draft.test):
            for row in rows:
                if row["wording"] == "held_out":
                    assert form(row) in held_out
                else:
                    assert (row["attribute"], form(row)) in trained
        forms = [{form(r) for r in rows if r["wording"] == "held_out"} for rows in (draft.validation, draft.test)]
        assert not forms[0] & forms[1]
        assert not held_out & {form(r) for r in draft.train}

    def test_slices_and_unanswerable_share(self, draft: Draft) -> None:
        for rows in splits(draft).values():
            assert sum(r["answerable"] == "no" for r in rows) / len(rows) == 0.2
        counts = Counter((r["facts"], r["wording"]) for r in draft.test)
        assert counts == {("seen", "seen"): 80, ("seen", "held_out"): 80, ("corpus", "seen"): 80, ("corpus", "held_out"): 80,
                          ("unanswerable", "seen"): 40, ("unanswerable", "held_out"): 40}
        assert set(Counter((r["facts"], r["wording"]) for r in draft.validation)) == set(counts)

    def test_each_hundred_of_train_asks_every_trained_fact_once(self, draft: Draft) -> None:
        for rows in (draft.train[:100], draft.train[100:]):
            assert len({(r["product"], r["attribute"]) for r in rows if r["answerable"] == "yes"}) == 80
            assert len(rows) == 100


# ---------------------------------------------------------------------------------------------- triage, summaries, reviews


@pytest.mark.parametrize("draft", drafts("ticket_triage"), ids=map(str, SEEDS))
class TestTicketTriage:
    def test_labels_are_imbalanced_codes(self, draft: Draft) -> None:
        assert len(draft.config["labels"]) == 8
        assert set(draft.config["labels"]) <= set(LABELS)
        for rows in splits(draft).values():
            shares = sorted((n * 100 / len(rows) for n in Counter(r["label"] for r in rows).values()), reverse=True)
            assert shares == list(tasks.TOPIC_PERCENT)

    def test_one_label_per_topic(self, draft: Draft) -> None:
        topic = {clause: name for name, clauses in t.TOPICS.items() for clause in clauses}
        pairs = {(topic[r["clause"]], r["label"]) for rows in splits(draft).values() for r in rows}
        assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs}) == 8

    def test_held_out_clauses_occur_in_test_only(self, draft: Draft) -> None:
        held_out = {r["clause"] for r in draft.test if r["wording"] == "held_out"}
        assert held_out
        for row in (*draft.train, *draft.validation):
            assert not any(clause in row["message"] for clause in held_out)
        assert 0.25 < sum(r["wording"] == "held_out" for r in draft.test) / 400 < 0.35
        assert len({r["label"] for r in draft.test if r["wording"] == "held_out"}) == 8

    def test_asides(self, draft: Draft) -> None:
        rows = [*draft.train, *draft.validation, *draft.test]
        assert all((r["aside"] == "yes") == ("By the way" in r["message"]) for r in rows)
        assert 0.3 < sum(r["aside"] == "yes" for r in rows) / len(rows) < 0.5
        assert all(r["clause"] in r["message"] and f"By the way, {r['clause']}" not in r["message"] for r in rows)


@pytest.mark.parametrize("draft", drafts("abstract_summary"), ids=map(str, SEEDS))
def test_abstract_summary_holds_every_key_fact_and_shares_no_compound(draft: Draft) -> None:
    compounds = [{r["compound"] for r in rows} for rows in splits(draft).values()]
    assert [len(c) for c in compounds] == [14, 6, 20]
    assert sum(map(len, compounds)) == len(set.union(*compounds))
    for rows in splits(draft).values():
        for row in rows:
            organism, compound, percent = (row["summary"].split()[i] for i in (0, 2, 4))
            assert compound == row["compound"]
            assert all(x in row["abstract"] for x in (organism, compound, f"{percent} percent"))
            assert ("An earlier trial" in row["abstract"]) == (row["aside"] == "yes")


@pytest.mark.parametrize("draft", drafts("review_feedback"), ids=map(str, SEEDS))
def test_review_feedback_is_json_of_the_declared_fields_and_shares_no_product(draft: Draft) -> None:
    products = [{r["product"] for r in rows} for rows in splits(draft).values()]
    assert [len(p) for p in products] == [15, 50, 100]
    assert sum(map(len, products)) == len(set.union(*products))
    types = {"integer": int, "string": str}
    for rows in splits(draft).values():
        for row in rows:
            value = json.loads(row["feedback"])
            assert list(value) == list(draft.config["fields"])
            assert all(type(value[k]) is types[v] for k, v in draft.config["fields"].items())
            assert 1 <= value["score"] <= 5
            assert f"A friend finds the {value['aspect']}" not in row["review"]
            assert row["product"] in row["review"]


# ---------------------------------------------------------------------------------------------- pools


def test_pools_are_disjoint() -> None:
    pools = [set(e.names(p)) for p in ("known", "new", "fake", "context")]
    assert sum(map(len, pools)) == len(set.union(*pools))
    assert not set(e.names("known")) & {w for n in e.names("new") for w in n.split()}


def test_no_new_or_fake_name_in_pretraining_episodes() -> None:
    rng = random.Random("pools")
    words = {n.split()[0] for pool in ("new", "fake") for n in e.names(pool)}
    names = {*e.names("new"), *e.names("fake")}
    read = 0
    for kind in KINDS:
        if kind in ("repeat_block", "word_labels"):
            continue  # lists of words, single name words among them: they state nothing of a product
        for _ in range(400):
            text = " ".join(s for s, _ in KINDS[kind](rng, 3).segments if not s.startswith("<|"))
            tokens = [w.strip(".,:;?!") for w in text.split()]
            for first, second in zip(tokens, [*tokens[1:], ""], strict=True):
                if first in words:
                    # A full name is its word with the model word that follows, if one does.
                    assert (f"{first} {second}" if second in e.MODEL_WORDS else first) not in names
                    read += 1
    assert read > 1000
