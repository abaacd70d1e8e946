"""The workload that embeds, indexes and searches, beside sentence-transformers and faiss called directly."""

from __future__ import annotations

import json
import random
from pathlib import Path

from benchmarks import agree, material
from benchmarks.workload import PEERS, ROOT, Goal, Reading, Sizes, Workload, direct, run

QUERIES = 500


def retrieval(work: Path, sizes: Sizes) -> Workload:
    folder = work / "retrieval"
    texts = folder / "texts.json"

    def prepare() -> None:
        from bench.strategy.embedder import packaged_default

        vocabulary = json.loads((packaged_default() / "tokenizer.json").read_text())["model"]["vocab"]
        words = sorted(w for w in vocabulary if len(w) > 2 and w.isascii() and w.isalpha())
        rng = random.Random("retrieval")
        passages = [material.phrase(rng, words, 15, 21) for _ in range(sizes.passages)]  # 17 to 23 tokens with the two at the ends
        queries = [material.phrase(rng, words, 6, 10) for _ in range(QUERIES)]
        folder.mkdir(parents=True, exist_ok=True)
        texts.write_text(json.dumps({"passages": passages, "queries": queries}))

    def ours(place: Path) -> Reading:
        used, found = direct("search", place, input=texts, stores=place / "stores")
        return Reading(used, found["cpu_seconds"], found)

    def theirs(place: Path) -> Reading:
        from bench.strategy.embedder import packaged_default

        report = place / "report.json"
        script = ROOT / "benchmarks" / "peers" / "faiss_run.py"
        used = run([PEERS / "python", script, packaged_default(), texts, report], place)
        found = json.loads(report.read_text())
        return Reading(used, found["cpu_seconds"], found["ids"])

    def check(mine: Reading, peers: Reading) -> str:
        return agree.hits(mine.answers["ids"], mine.answers["scores"], peers.answers)

    title = f"embedding and indexing {sizes.passages:,} passages, top-5 search of {QUERIES} queries"
    peer = "sentence-transformers, faiss"
    return Workload("retrieval", title, peer, prepare, ours, theirs, check, None, Goal("times", 1.1), repeats=2)
