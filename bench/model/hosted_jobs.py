"""The jobs that a cell has begun at a provider's fine-tuning API, kept in a file so that a run that was killed pays for none twice."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bench.errors import BenchError
from bench.result.store import to_json, write_atomic

HOSTED = "hosted.json"
"""The file's name, in a cell's folder."""
_ENDED = ("succeeded", "failed", "cancelled")


class HostedJob(BaseModel):
    """One job, as far as it has come. What the provider has not said is None."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: str
    """SHA-256 of what it trains: model, rows, hyper-parameters, seed."""
    suffix: str
    """A name that no other job has, noted before the job is created, by which it is found again."""
    file_id: str | None = None
    """Of the rows at the provider; noted before the job is created."""
    reserved_usd: float | None = None
    """What of the spending cap is set aside for it."""
    job_id: str | None = None
    status: str | None = None
    """In the provider's words: validating_files, queued, running, paused, succeeded, failed, cancelled."""
    error: str | None = None
    fine_tuned_model: str | None = None
    """The name that the tuned model is asked by."""
    trained_tokens: int | None = None
    """As billed: all epochs."""
    hyperparameters: dict[str, Any] = Field(default_factory=dict)
    """As the provider resolved them."""
    seconds: float | None = None
    """From creation to end, by the provider's clock, its queue included."""

    @property
    def ended(self) -> bool:
        return self.status in _ENDED


class HostedJobs(BaseModel):
    """The keys of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str
    model: str
    """The model that is tuned."""
    jobs: list[HostedJob] = Field(default_factory=list)
    """In the order in which they were begun."""


class JobFile:
    """A cell's jobs in their file, which is written whole at every change."""

    def __init__(self, path: Path, url: str, model: str) -> None:
        """Raises `BenchError` for a file that is none of this program's."""
        self.path = path
        self.content = read_jobs(path) if path.exists() else HostedJobs(url=url, model=model)

    def latest(self, key: str) -> HostedJob | None:
        """The last job that was begun for this."""
        return next((job for job in reversed(self.content.jobs) if job.key == key), None)

    def put(self, job: HostedJob) -> None:
        """Note a job, in the place of what was noted of it before."""
        places = {known.suffix: place for place, known in enumerate(self.content.jobs)}
        jobs = list(self.content.jobs)
        place = places.get(job.suffix, len(jobs))
        jobs[place : place + 1] = [job]
        self.content = self.content.model_copy(update={"jobs": jobs})
        write_atomic(self.path, to_json(self.content))

    @property
    def trained_tokens(self) -> int | None:
        """Of all jobs together; None where one that succeeded has not said its own."""
        if any(job.status == "succeeded" and job.trained_tokens is None for job in self.content.jobs):
            return None
        return sum(job.trained_tokens or 0 for job in self.content.jobs)


def read_jobs(path: Path) -> HostedJobs:
    """What a file says. Raises `BenchError` where it cannot be read or is none of this program's."""
    try:
        return HostedJobs.model_validate_json(path.read_bytes())
    except OSError as error:
        raise BenchError(f"{path}: cannot be read ({error.strerror}); expected the jobs of a cell") from error
    except ValidationError as error:
        problem = error.errors()[0]
        raise BenchError(f"{path}: found {problem['msg'].lower()}; expected the jobs of a cell, as bench run writes them") from None


def going_on(run: Path) -> int:
    """How many jobs of a run's cells have been begun and, as far as is noted, have not ended. Raises as `read_jobs`."""
    return sum(job.job_id is not None and not job.ended for file in run.rglob(HOSTED) for job in read_jobs(file).jobs)


def new_job(key: str) -> HostedJob:
    """A job that nothing has been done for."""
    return HostedJob(key=key, suffix=f"bench-{secrets.token_hex(6)}")


def job_key(url: str, model: str, rows: Sequence[Mapping[str, Any]], hyperparameters: Mapping[str, Any], seed: int) -> str:
    """SHA-256 of what a job trains."""
    data = [url, model, list(rows), dict(hyperparameters), seed]
    return hashlib.sha256(json.dumps(data, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
