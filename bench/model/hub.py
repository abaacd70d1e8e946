"""Models of the hub: fetched, or found in its cache on this machine."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from bench.errors import BenchError

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_REVISED = re.compile(rf"({HUB_ID.pattern})@([^@\s]+)")
_SNAPSHOT = re.compile(r"models--(.+)/snapshots/([0-9a-f]{40})")


def split_revision(name: str) -> tuple[str, str | None]:
    """``owner/name@REVISION`` in its two parts; what has no such form is a name without a revision."""
    found = _REVISED.fullmatch(name)
    return (found[1], found[3]) if found else (name, None)


def download(name: str, revision: str | None, files: Sequence[str]) -> Path:
    """The folder with the files of a hub id that match the patterns `files`, at a branch, tag or commit (None: the main branch).

    Raises `BenchError` where there is no such id or revision, or where it is not in the cache and cannot be fetched.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(files)))
    except RepositoryNotFoundError as error:
        raise BenchError(f"model {name}: no such folder, and the hub has no model of this id") from error
    except RevisionNotFoundError as error:
        raise BenchError(f'model {name}: the hub has no revision "{revision}" of it; expected a branch, a tag or a commit') from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        at = f' at revision "{revision}"' if revision else ""
        raise BenchError(f"model {name}: no such folder, and it could not be fetched from the hub{at} ({reason})") from error


def commit_of(folder: Path) -> str | None:
    """The commit of a folder in the hub's cache; None of any other."""
    found = _SNAPSHOT.search(folder.as_posix())
    return found[2] if found else None


def hub_name_of(path: str) -> str | None:
    """``owner/name@COMMIT`` of a path into the hub's cache, on whatever machine it was; None of any other path."""
    found = _SNAPSHOT.search(path)
    return f"{found[1].replace('--', '/')}@{found[2]}" if found else None
