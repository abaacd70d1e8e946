"""sentence-transformers and faiss called directly: ``faiss_run.py MODEL TEXTS REPORT``; TEXTS and REPORT are JSON."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import faiss
import torch
from sentence_transformers import SentenceTransformer


def main() -> None:
    texts, report = json.loads(Path(sys.argv[2]).read_text()), Path(sys.argv[3])
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    model = SentenceTransformer(sys.argv[1], device="cpu")
    model.encode(["warm up"])
    cpu, wall = time.process_time(), time.perf_counter()
    vectors = model.encode(texts["passages"], normalize_embeddings=True, show_progress_bar=False)
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    scores, ids = index.search(model.encode(texts["queries"], normalize_embeddings=True, show_progress_bar=False), 5)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    report.write_text(json.dumps({"cpu_seconds": cpu, "wall_seconds": wall, "ids": ids.tolist(), "scores": scores.tolist()}))


if __name__ == "__main__":
    main()
