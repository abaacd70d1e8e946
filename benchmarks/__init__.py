"""Speed of this harness beside that of its peers, on the same work and with the same answers: ``python -m benchmarks``."""
