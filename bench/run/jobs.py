"""The jobs that a run has begun at a provider's fine-tuning API: how each of them is, and ending those that are still at work."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench.errors import BenchError
from bench.model.connection import Connection, EndpointRefused
from bench.model.hosted import FineTuning, state_of
from bench.model.hosted_jobs import HOSTED, HostedJob, read_jobs
from bench.result.store import RunFolder

COLUMNS = ("cell", "job", "state", "trained tokens", "tuned model")


@dataclass(frozen=True)
class RunJob:
    """One job of a run."""

    cell: str
    """Its folder in the run."""
    job: HostedJob
    """As the provider tells it now."""
    note: str | None = None
    """What was done with it, or why its state is not known."""

    @property
    def cells(self) -> tuple[str, ...]:
        """As ``COLUMNS``."""
        job = self.job
        state = job.status or "not created"
        tokens = "" if job.trained_tokens is None else f"{job.trained_tokens:,}"
        return self.cell, job.job_id or job.suffix, f"{state} ({self.note})" if self.note else state, tokens, job.fine_tuned_model or ""


def run_jobs(run: Path, api_key_env: str, cancel: bool) -> list[RunJob]:
    """The jobs of a run's cells, those of superseded cells too; one that has ended is not asked about again.

    ``cancel``: end those that have not. Raises `BenchError` for no run, and where the provider cannot be asked.
    """
    RunFolder(run).read_run()
    found = []
    for file in sorted(run.rglob(HOSTED)):
        known = read_jobs(file)
        api = FineTuning(Connection(known.url, api_key_env=api_key_env))
        cell = file.parent.relative_to(run).as_posix().removeprefix("cells/")
        found += [_now(api, cell, job, cancel) for job in known.jobs]
    return found


def _now(api: FineTuning, cell: str, job: HostedJob, cancel: bool) -> RunJob:
    if job.job_id is None or job.ended:
        return RunJob(cell, job)
    try:
        now = job.model_copy(update=state_of(api.retrieve(job.job_id)))
    except EndpointRefused as error:
        if error.status != 404:
            raise
        return RunJob(cell, job, "the provider does not know it")
    if now.ended or not cancel:
        return RunJob(cell, now)
    try:
        return RunJob(cell, job.model_copy(update=state_of(api.cancel(job.job_id))), "cancelled now")
    except EndpointRefused:
        raise
    except BenchError as error:  # it has ended meanwhile
        return RunJob(cell, now, f"not cancelled: {error}")
