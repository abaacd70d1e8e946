"""Workloads that ask a frozen model, beside lm-eval: multiple choice, generation, and all strategies of a task together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from benchmarks import agree, material
from benchmarks.material import Row
from benchmarks.measure import Usage
from benchmarks.workload import PEERS, ROOT, Goal, Reading, Sizes, Workload, direct, phase, run, run_suite, write_suite

INSTRUCTION = "Answer the question."
BATCH = 16


def lm_eval_command(folder: Path, task: str, model: Path, output: Path) -> list[str | Path]:
    return [
        "run", "--model", "hf", "--model_args", f"pretrained={model},dtype=float32", "--device", "cpu", "--batch_size", str(BATCH),
        "--tasks", task, "--include_path", folder / "lm_eval", "--output_path", output, "--log_samples",
    ]  # fmt: skip


def run_lm_eval(folder: Path, task: str, model: Path, place: Path) -> tuple[Usage, float, list[Row]]:
    """``lm_eval run`` of a task in `folder`: what it took, the CPU seconds of its requests, and its samples in the order of the rows."""
    report = place / "requests.json"
    command = lm_eval_command(folder, task, model, place / "output")
    used = run([PEERS / "python", ROOT / "benchmarks" / "peers" / "lm_eval_run.py", report, *command], place)
    (samples,) = (place / "output").rglob(f"samples_{task}_*.jsonl")
    rows = sorted(material.read_rows(samples), key=lambda row: row["doc_id"])
    return used, json.loads(report.read_text())["cpu_seconds"], rows


def check_prompts(folder: Path, task: str, model: Path, **options: Path | str) -> None:
    """Raises `DisagreementError` where lm-eval would ask the model other tokens than this harness; `options` as for ``prompts``."""
    work = folder / f"tokens-{task}"
    _, prompts = direct("prompts", work, **options)
    script, report = ROOT / "benchmarks" / "peers" / "lm_eval_run.py", work / "lm_eval.json"
    run([PEERS / "python", script, "--tokens", report, *lm_eval_command(folder, task, model, work / "output")], work)
    ours = [[p["ids"], option] for p in prompts for option in p["options"]] or [[p["ids"]] for p in prompts]
    agree.tokens(ours, json.loads(report.read_text()))


def against_lm_eval(
    work: Path, name: str, title: str, kind: Literal["choice", "letters", "generation"], model: str, items: int, shots: int,
    goal_phase: Goal, goal_whole: Goal,
) -> Workload:  # fmt: skip
    """One task and one strategy of prompting."""
    folder, weights = work / name, work / "models" / model
    suite = folder / "suite.yaml"
    generates = kind == "generation"

    def prepare() -> None:
        from bench.strategy.prompt import draw_shots
        from bench.task.load import load_task

        shown = kind == "letters"
        offered = (1, 2) if shown else (3, 6)
        rows = {"train": material.choice_rows(100, "train", (6, 7), offered, shown)}  # 8 shots make about 150 tokens
        rows |= {s: material.choice_rows(n, s, (15, 20), offered, shown) for s, n in (("validation", 4), ("test", items))}
        settings: dict[str, Any] = {"instruction": INSTRUCTION, "input": "{{ question }}", "target": "answer"}
        if generates:
            settings |= {"kind": "qa", "metrics": ["exact_match"], "max_new_tokens": 16}
        else:
            settings |= {"kind": "multiple_choice", "options": "options", "metrics": ["accuracy"]}
        task = load_task(material.write_task(folder / "task", settings, rows))
        drawn = [next(row for row in rows["train"] if row["id"] == shot.id) for shot in draw_shots(task, shots, 0)]
        material.write_lm_eval_task(folder / "lm_eval", name, INSTRUCTION, drawn, rows["test"], 16 if generates else None, ["\n"])
        write_suite(suite, weights, [task.folder], {"prompting": {"prompt": {"shots": shots}}})
        check_prompts(folder, name, weights, suite=suite)

    def ours(place: Path) -> Reading:
        used, results = run_suite(suite, place)
        answered = results.read_items("task", "prompting", 0)
        answers = {i.id: i.prediction if generates else i.option_logprobs for i in answered}
        return Reading(used, phase(results, "task", "prompting", "answer").cpu_seconds, answers)

    def theirs(place: Path) -> Reading:
        used, seconds, samples = run_lm_eval(folder, name, weights, place)
        if generates:
            return Reading(used, seconds, {s["doc"]["id"]: s["resps"][0][0].strip() for s in samples})
        return Reading(used, seconds, {s["doc"]["id"]: [float(r[0]) for r in s["filtered_resps"]] for s in samples})

    def check(mine: Reading, peers: Reading) -> str:
        if not generates:
            return agree.choices(mine.answers, peers.answers)
        agree.same_items(mine.answers, peers.answers)
        pairs = {item: [mine.answers[item], peers.answers[item]] for item in agree.differing_texts(mine.answers, peers.answers)}
        if not pairs:
            return agree.texts(mine.answers, peers.answers)
        (folder / "pairs.json").write_text(json.dumps(pairs))
        return agree.texts(mine.answers, peers.answers, direct("gaps", folder, suite=suite, input=folder / "pairs.json")[1])

    long = model == "llama30m" or (shots > 0 and kind != "generation")  # at the peer
    return Workload(name, title, "lm-eval", prepare, ours, theirs, check, goal_whole, goal_phase, repeats=2 if long else 3)


def answering(work: Path, sizes: Sizes) -> list[Workload]:
    """The workloads of one strategy, on both models."""
    kinds: list[tuple[str, str, Literal["choice", "letters", "generation"], int, Goal, Goal]] = [
        ("choice", "8-shot multiple choice, options of several tokens", "choice", 8, Goal("faster", 15), Goal("faster", 3)),
        ("letters", "8-shot multiple choice, one-token letters", "letters", 8, Goal("faster", 4), Goal("faster", 2)),
        ("generation", "8-shot generation, up to 16 tokens, stop at a line's end", "generation", 8, Goal("faster", 3), Goal("faster", 1.5)),
        ("choice-0", "zero-shot multiple choice, options of several tokens", "choice", 0, Goal("faster", 2), Goal("faster", 1.2)),
    ]
    models = (("base", "embedded base", sizes.items), ("llama30m", "30 M parameters", sizes.items_large))
    return [
        against_lm_eval(work, f"{name}-{model}", f"{title} ({said}, {items} items)", kind, model, items, shots, of_phase, of_whole)
        for name, title, kind, shots, of_phase, of_whole in kinds
        for model, said, items in models
    ]


CHAIN = "Think step by step."


def together(work: Path, sizes: Sizes) -> Workload:
    """Every strategy that leaves the base as it is, on one task in one run, beside one run of lm-eval each."""
    folder, weights, suite = work / "together", work / "models" / "base", work / "together" / "suite.yaml"
    tokens, reasoning = 8, 64
    strategies: dict[str, dict[str, Any]] = {
        "zero-shot": {}, "few-shot": {"prompt": {"shots": 8}}, "chain-of-thought": {"prompt": {"chain_of_thought": CHAIN}},
        "rag": {"retrieval": {"search": "dense", "top_k": 3}},
    }  # fmt: skip

    def prepare() -> None:
        from bench.strategy.prompt import draw_shots
        from bench.task.load import load_task

        source = ROOT / "tasks" / "product_support"
        settings = {
            "kind": "qa", "instruction": INSTRUCTION, "input": "{{ question }}", "target": "answers", "evidence": "document_ids",
            "shared_clusters": "allow", "cluster": "product", "metrics": ["exact_match"], "max_new_tokens": tokens,
        }  # fmt: skip
        splits = {s: material.read_rows(source / f"{s}.jsonl") for s in ("train", "validation", "test", "corpus")}
        splits["test"] = [row for row in splits["test"] if row["answers"]][: sizes.items]
        splits["train"] = [row for row in splits["train"] if row["answers"]]
        splits["validation"] = [row for row in splits["validation"] if row["answers"]][:4]
        task = load_task(material.write_task(folder / "task", settings, splits))
        write_suite(suite, weights, [task.folder], strategies)
        # What retrieval finds is given to lm-eval: it has none.
        _, results = run_suite(suite, folder / "found")
        documents = {passage.id: passage.text for passage in task.corpus}
        passages = {i.id: [documents[d] for d in i.retrieved_ids or ()] for i in results.read_items("task", "rag", 0)}
        (folder / "passages.json").write_text(json.dumps(passages))
        shots = [{"id": s.id, "question": s.input, "answer": s.targets[0]} for s in draw_shots(task, 8, 0)]
        for name in strategies:
            asked = [{"id": e.id, "question": e.input, "answer": e.targets[0]} for e in task.test]
            if name == "rag":
                for row in asked:
                    read = "\n".join(f"[{n}] {text}" for n, text in enumerate(passages[row["id"]], start=1))
                    row["question"] = f"{read}\n\n{row['question']}"
            chain = name == "chain-of-thought"
            material.write_lm_eval_task(
                folder / "lm_eval", name, f"{INSTRUCTION} {CHAIN}" if chain else INSTRUCTION, shots if name == "few-shot" else [], asked,
                tokens + reasoning if chain else tokens, [] if chain else ["\n"],
            )  # fmt: skip
            given = {"input": folder / "passages.json"} if name == "rag" else {}
            check_prompts(folder, name, weights, suite=suite, strategy=name, **given)

    def ours(place: Path) -> Reading:
        used, results = run_suite(suite, place)
        seconds = sum(phase(results, "task", name, "answer").cpu_seconds for name in strategies)
        answers = {
            f"{name}/{i.id}": f"{i.reasoning or ''}|{i.prediction}" for name in strategies for i in results.read_items("task", name, 0)
        }
        return Reading(used, seconds, answers)

    def theirs(place: Path) -> Reading:
        found = {name: run_lm_eval(folder, name, weights, place / name) for name in strategies}
        uses = [used for used, _, _ in found.values()]
        whole = Usage(
            sum(u.cpu_seconds for u in uses), sum(u.wall_seconds for u in uses), max(u.peak_bytes for u in uses), uses[0].started
        )
        answers = {
            f"{name}/{s['doc']['id']}": _as_parsed(s["resps"][0][0], name == "chain-of-thought")
            for name, (_, _, samples) in found.items()
            for s in samples
        }
        return Reading(whole, sum(seconds for _, seconds, _ in found.values()), answers)

    def check(mine: Reading, peers: Reading) -> str:
        return agree.texts(mine.answers, peers.answers)

    title = "zero-shot, 8-shot, chain of thought and RAG of one task together (embedded base)"
    return Workload("together", title, "lm-eval, once per strategy", prepare, ours, theirs, check, Goal("faster", 4), repeats=2)


def _as_parsed(text: str, chain: bool) -> str:
    """What of a generated text this harness takes for reasoning and answer, joined by a bar; without a chat template, an answer ends
    with its line."""
    if not chain:
        return f"|{text.strip()}"
    from bench.strategy.prompt import parse
    from bench.strategy.spec import PromptChoice

    thought, marker, rest = text.partition("Answer:")
    parsed = parse(PromptChoice(chain_of_thought=CHAIN), f"{thought}{marker} {rest.lstrip().partition(chr(10))[0]}".strip())
    return f"{parsed.reasoning or ''}|{parsed.answer}"
