"""A constructed task for the tests of the report's renderers: three contenders, a floor, an oracle, a failed one, and hostile texts."""

from itertools import combinations

from bench.report.model import Answer, Candidate, Evidence, Measure, Pair, Question, Standing, TaskEvidence

SCRIPT = "</script><script>alert(1)</script>"
IMAGE = "<img src=x onerror=alert(1)>"
LINK = "[x](javascript:alert(1))"
TABLE = "| a | b |"
ANSI = "\x1b[31mred\x1b[0m"
RIGHT_TO_LEFT = "\u202eevil\u202c שלום"
EMOJI = "👩‍🔬 ok"
HOSTILE = (SCRIPT, IMAGE, LINK, TABLE, ANSI, RIGHT_TO_LEFT, EMOJI, "<!-- --!> ]]> &lt; \u2028 \u2029 \x00 \x7f {{ 7*7 }} {% raw %} \ud800")


def strategy(name: str, standing: Standing, quality: float | None, reason: str | None = None, **more: float) -> Candidate:
    measures = {} if quality is None else {"quality": Measure(quality, quality - 0.03, quality + 0.03)}
    measures |= {key.replace("__", "."): Measure(value) for key, value in more.items()}
    family = "tuning" if "lora" in name else "prompting"
    return Candidate(name, standing, reason, f"What {name} does", family, {"prompt": {}, "retrieval": {}, "tuning": {}}, measures, 40, 3)


def pair(a: str, b: str, difference: float, p: float) -> Pair:
    return Pair(a, b, Measure(difference, difference - 0.02, difference + 0.02), p, 0.05, None, None, None)


def hostile_task(name: str = "support", *, higher_is_better: bool = True, lora: str = "lora", questions: int = 30) -> TaskEvidence:
    candidates = (
        strategy("majority", "floor", 0.2, hallucination_rate=0.8),
        strategy("zero-shot", "contender", 0.5, hallucination_rate=0.3, usd_per_1000_requests=0.01, setup_usd=0.0, peak_memory_bytes=5e8,
                 abstention_rate=0.2, total_usd=5.0, latency_p95_seconds=0.1),
        strategy("few-shot", "contender", 0.51, hallucination_rate=0.29, usd_per_1000_requests=0.03, setup_usd=0.1, peak_memory_bytes=6e8,
                 abstention_rate=0.2, total_usd=6.0, latency_p95_seconds=0.2),
        strategy(lora, "contender", 0.9, hallucination_rate=0.05, usd_per_1000_requests=0.012, setup_usd=2.0, peak_memory_bytes=7e8,
                 abstention_rate=0.05, total_usd=5.5, latency_p95_seconds=0.11, footprint__n_components=2.0),
        strategy("rag-oracle", "oracle", 0.99, hallucination_rate=0.01),
        strategy("full", "failed", None, f"out of memory {IMAGE}"),
    )  # fmt: skip
    pairs = (pair("zero-shot", "few-shot", -0.01, 0.7), pair("zero-shot", lora, -0.4, 0.001), pair("few-shot", lora, -0.39, 0.001))
    asked = tuple(_question(place, lora) for place in range(questions))
    return TaskEvidence(
        name,
        "embedded",
        "exact_match",
        higher_is_better,
        True,
        candidates,
        pairs,
        asked,
        {"doc-1": f"A page {SCRIPT} {ANSI}", "doc-2": IMAGE},
    )


def _question(place: int, lora: str) -> Question:
    text = HOSTILE[place % len(HOSTILE)]
    answers = {
        "zero-shot": Answer(f"guess {place} {text}", 0.0, "incorrect" if place % 3 else "abstained", None, None, None),
        "few-shot": Answer("unknown", 0.0, "abstained", f"no JSON {IMAGE}", None, None),
        lora: Answer(
            f"right {place}", 1.0 if place % 5 else 0.0, "correct" if place % 5 else "incorrect", None, ("doc-1", "doc-2"), ("doc-1",)
        ),
    }
    return Question(
        f"item-{place:02}",
        f"Question {place}: {text}" if place != 1 else None,
        (f"right {place}",),
        ("doc-1",),
        answers,
        cluster=f"c{place}",
    )


def evidence(*tasks: TaskEvidence) -> Evidence:
    return Evidence(
        tasks, ("results/one",), f"bench run default --name '{IMAGE}'", {"python": "3.11", "packages": {"torch": "2"}, "gpu": None},
        {task.task: {"task": "ab" * 32} for task in tasks}, {"requests_per_month": 1000.0}, (f"cpu: 1 USD {LINK}",),
        ({"id": "claim-1", "claim": f"RAG is cheaper {TABLE}", "outcome": "REPRODUCED", "detail": ANSI},),
    )  # fmt: skip


def all_equal(names: tuple[str, ...]) -> TaskEvidence:
    candidates = tuple(strategy(name, "contender", 0.5) for name in names)
    return TaskEvidence(
        "equal", "m", "exact_match", True, True, candidates, tuple(pair(a, b, 0.0, 1.0) for a, b in combinations(names, 2)), ()
    )
