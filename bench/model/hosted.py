"""Tuning by a provider: a job of OpenAI's fine-tuning API, begun once, waited for, and taken up again after a kill.

The shapes are those of the published API (https://platform.openai.com/docs/api-reference/fine-tuning), as the openai client has them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from bench.cost.spending import Spending, SpendingCap
from bench.errors import BenchError
from bench.model.connection import Connection, EndpointDown, EndpointRefused, EndpointStopped
from bench.model.endpoint import prompt_bound
from bench.model.hosted_jobs import HostedJob, JobFile, job_key, new_job

T = TypeVar("T")
Row = Mapping[str, Any]
"""``{"messages": [...]}``, the answer to learn last."""

_SLOWER = 1.5
"""Each wait before the next question, relative to the last."""
_PAGE = 100
_CANNOT_LIST = (404, 405, 501)


class FineTuning:
    """The fine-tuning API of one server. Raises as `Connection.request`."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def upload(self, rows: Sequence[Row]) -> str:
        """Put the rows there, as JSONL: the file's id."""
        data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()

        def attempt() -> str:
            raw = self.connection.client.files.with_raw_response.create(
                file=("train.jsonl", data), purpose="fine-tune", **self.connection.options
            )
            return str(_object(raw.http_response.content, "a file", "id")["id"])

        return self._with_api(attempt, "files for fine-tuning")

    def create(self, model: str, job: HostedJob, hyperparameters: Mapping[str, Any], seed: int, look: bool) -> Row:
        """Begin the job, of which suffix and file are known. ``look``: an earlier attempt may have got through.

        No job is created twice: before each attempt but the first one, the account's jobs are looked through.
        """
        asked: dict[str, Any] = {"model": model, "training_file": job.file_id, "suffix": job.suffix, "seed": seed}
        if hyperparameters:
            asked["method"] = {"type": "supervised", "supervised": {"hyperparameters": dict(hyperparameters)}}
        unsure = look

        def attempt() -> Row:
            nonlocal unsure
            if unsure and (found := self._find(job)):
                return found
            unsure = True
            return _job(self.connection.client.fine_tuning.jobs.with_raw_response.create(**asked, **self.connection.options))

        return self._with_api(attempt, f"fine-tuning jobs of model {model}")

    def retrieve(self, job_id: str) -> Row:
        """The job as it is now."""
        jobs = self.connection.client.fine_tuning.jobs.with_raw_response
        return self.connection.request(lambda: _job(jobs.retrieve(job_id, **self.connection.options)), f"fine-tuning job {job_id}")

    def cancel(self, job_id: str) -> Row:
        """End the job."""
        jobs = self.connection.client.fine_tuning.jobs.with_raw_response
        return self.connection.request(lambda: _job(jobs.cancel(job_id, **self.connection.options)), f"fine-tuning job {job_id}")

    def _find(self, job: HostedJob) -> Row | None:
        """The account's job of this suffix or, where the server does not tell suffixes, of this file. None where there is none, or
        the server lists none. One attempt, within another's."""
        import openai

        after: dict[str, Any] = {}
        seen: set[str] = set()
        while True:
            try:
                raw = self.connection.client.fine_tuning.jobs.with_raw_response.list(limit=_PAGE, **after, **self.connection.options)
            except openai.APIStatusError as error:
                if error.status_code in _CANNOT_LIST:
                    return None
                raise
            page = _object(raw.http_response.content, "a list of jobs", "data", list)
            listed = [one for one in page["data"] if isinstance(one, dict) and isinstance(one.get("id"), str)]
            for one in listed:
                suffix = one.get("user_provided_suffix")
                if suffix == job.suffix or (suffix is None and one.get("training_file") == job.file_id):
                    return _checked(one)
            new = {one["id"] for one in listed} - seen
            if not new or not page.get("has_more"):
                return None
            seen |= new
            after = {"after": listed[-1]["id"]}

    def _with_api(self, attempt: Callable[[], T], subject: str) -> T:
        try:
            return self.connection.request(attempt, subject)
        except EndpointRefused as error:
            if error.status != 404:
                raise
            raise EndpointRefused(f"{error}; expected a server with OpenAI's fine-tuning API, and a model that it tunes", 404) from None


class HostedTuning:
    """Tunes one model of one server, and keeps in a file what it has begun."""

    def __init__(
        self, connection: Connection, model: str, file: Path, spending: Spending | None = None,
        poll_seconds: tuple[float, float] = (1.0, 60.0),
    ) -> None:  # fmt: skip
        """``file``: as of `JobFile`; ``spending``: what a job is charged to before it is created; ``poll_seconds``: the first wait
        between two questions how a job is, and the longest.

        Raises:
            BenchError: The file is none of this program's.
        """
        self.api, self.model, self.spending, self.poll_seconds = FineTuning(connection), model, spending, poll_seconds
        self.file = JobFile(file, connection.url, model)

    def tune(self, rows: Sequence[Row], hyperparameters: Mapping[str, Any], seed: int, report: Callable[[str], None]) -> HostedJob:
        """The job that has trained on the rows, waited for where it has not ended; a second call with the same asks nothing.

        A job that an earlier process began is taken up; one that failed or was cancelled then is begun anew. ``report`` is told the
        job's state. Ending this process leaves the job running.

        Raises:
            BenchError: The provider refuses the job, or it failed.
            EndpointStopped: The key or the address is refused, the server stays away, the job was cancelled meanwhile, or the spending
                cap does not allow it; what was begun goes on, and the same call takes it up.
        """
        key = job_key(self.file.content.url, self.model, rows, hyperparameters, seed)
        job = self.file.latest(key)
        if job and job.status == "succeeded":
            return job
        if job and job.ended:
            job = None
        try:
            if job and job.job_id:
                job = self._told(job, self.api.retrieve(job.job_id))
                if job.status == "cancelled":
                    job = None
            if job is None or job.job_id is None:
                job = self._begin(job or new_job(key), rows, hyperparameters, seed)
            return self._wait(job, report)
        except (EndpointRefused, EndpointDown, SpendingCap) as error:
            begun = self.file.latest(key)
            goes_on = begun and begun.job_id and not begun.ended
            raise EndpointStopped(f"{error}{f' (job {begun.job_id} goes on there)' if begun and goes_on else ''}") from None

    def _begin(self, job: HostedJob, rows: Sequence[Row], hyperparameters: Mapping[str, Any], seed: int) -> HostedJob:
        """Create the job, each step noted before the next one that costs money."""
        uploaded = job.file_id is not None
        if self.spending and job.reserved_usd is None:
            usd = self._most_usd(rows, hyperparameters)
            self.spending.reserve_usd(usd, "the next job")
            job = job.model_copy(update={"reserved_usd": usd})
        job = self._noted(job)
        if not uploaded:
            job = self._noted(job, file_id=self.api.upload(rows))
        return self._told(job, self.api.create(self.model, job, hyperparameters, seed, look=uploaded))

    def _wait(self, job: HostedJob, report: Callable[[str], None]) -> HostedJob:
        """Ask how the job is until it has ended."""
        pause, longest = self.poll_seconds
        while not job.ended:
            report(str(job.status))
            time.sleep(pause)
            pause = min(pause * _SLOWER, longest)
            assert job.job_id is not None
            job = self._told(job, self.api.retrieve(job.job_id))
        if job.status == "cancelled":
            raise EndpointStopped(f"endpoint {self.file.content.url}: job {job.job_id} was cancelled; the same command begins another")
        if job.status == "failed":
            reason = self.api.connection.safe(job.error or "") or "no reason given"
            raise BenchError(f"endpoint {self.file.content.url}: fine-tuning job {job.job_id} failed: {reason}")
        return job

    def _noted(self, job: HostedJob, **update: Any) -> HostedJob:
        job = job.model_copy(update=update)
        self.file.put(job)
        return job

    def _told(self, job: HostedJob, told: Row) -> HostedJob:
        """The job with what the provider says of it, noted; what it has cost is settled once."""
        before, update = job, state_of(told)
        if update["error"]:
            update["error"] = self.api.connection.safe(update["error"])
        job = job.model_copy(update=update)
        if job != before:
            self.file.put(job)
        if job.ended and not before.ended and self.spending and job.reserved_usd is not None and job.trained_tokens is not None:
            # Of a job that does not say what it trained on, all that was set aside stays spent: it may be billed.
            self.spending.settle_usd(job.reserved_usd, job.trained_tokens * (self.spending.price.training or 0.0) / 1e6)
        return job

    def _most_usd(self, rows: Sequence[Row], hyperparameters: Mapping[str, Any]) -> float:
        """What the job costs at most. Raises `SpendingCap` where that cannot be known."""
        assert self.spending is not None
        price, epochs = self.spending.price, hyperparameters.get("n_epochs")
        missing = price.missing_for_tuning
        if missing:
            raise SpendingCap(
                f'--max-usd: the price of "{price.name}" has no {", ".join(missing)}; expected them (USD per million tokens) in the'
                " price file, for a strategy that is tuned at the provider"
            )
        if not isinstance(epochs, int) or isinstance(epochs, bool) or epochs < 1:
            raise SpendingCap(
                f"--max-usd: tuning.hosted.n_epochs is {epochs if epochs is not None else 'missing'}; expected a number from 1 on, without"
                " which nobody knows what a job costs"
            )
        assert price.training is not None
        return price.training * epochs * sum(prompt_bound(row["messages"]) for row in rows) / 1e6


def state_of(told: Row) -> dict[str, Any]:
    """What the provider says of a job, as fields of `HostedJob`."""
    error = told.get("error")
    message = error.get("message") if isinstance(error, dict) else error
    tokens = told.get("trained_tokens")
    began, ended = told.get("created_at"), told.get("finished_at")
    return {
        "job_id": told["id"],
        "status": told["status"],
        "error": str(message) if message else None,
        "fine_tuned_model": told.get("fine_tuned_model"),
        "trained_tokens": tokens if isinstance(tokens, int) and tokens >= 0 else None,
        "hyperparameters": _hyperparameters(told),
        "seconds": float(ended - began) if isinstance(began, int) and isinstance(ended, int) and ended >= began else None,
    }


def _hyperparameters(told: Row) -> dict[str, Any]:
    method = told.get("method")
    supervised = method.get("supervised") if isinstance(method, dict) else None
    found = supervised.get("hyperparameters") if isinstance(supervised, dict) else None
    found = found or told.get("hyperparameters")
    return {key: value for key, value in found.items() if isinstance(value, str | int | float)} if isinstance(found, dict) else {}


def _job(response: Any) -> Row:
    return _checked(_object(response.http_response.content, "a fine-tuning job", "id"))


def _checked(job: Row) -> Row:
    """A job as it came; ValueError where it is none, or has succeeded without a model."""
    model = job.get("fine_tuned_model")
    if not isinstance(job.get("status"), str):
        raise ValueError(f"found job {job['id']} without a status, expected one")
    if not isinstance(model, str | None) or (job["status"] == "succeeded" and not model):
        raise ValueError(f"found job {job['id']} succeeded without the name of its model (fine_tuned_model), expected it")
    return job


def _object(raw: bytes, what: str, key: str, kind: type = str) -> dict[str, Any]:
    """A server's answer; ValueError where it is no JSON object with this key."""
    try:
        found = json.loads(raw)
    except ValueError:
        found = None
    if not isinstance(found, dict) or not isinstance(found.get(key), kind) or not (found[key] or kind is list):
        raise ValueError(f"found {raw[:80]!r}, expected {what} in JSON")
    return found
