"""How well each detector tells supported from unsupported responses of a labelled file, next to the length of the response alone."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from bench.errors import BenchError, did_you_mean
from bench.metric.detector import Detector
from bench.metric.detector_data import Labelled
from bench.metric.detector_quality import Score, Scored, Undefined, auroc, auroc_difference, auroc_interval, average_precision, defined
from bench.result.statistics import Interval, clustered_interval

BASELINE = "length"
COMMON = 0.5
"""Detectors that score fewer of the responses would leave the common ones too few: most responses hold no number."""
FORMATS = ("md", "csv", "json")


@dataclass(frozen=True)
class DetectorRow:
    """One detector on the responses that it can score; None where it scores no responses of both kinds."""

    detector: str
    n_scored: int
    undefined: dict[str, int]
    """Responses with a claim that it cannot score, by reason."""
    auroc: Interval | None
    average_precision: float | None
    prevalence: float | None
    """Share of unsupported responses among those scored, which is the average precision of a useless score."""
    over_length: Interval | None
    """AUROC minus that of `length` on the same responses; None for `length` itself."""
    auroc_common: float | None
    """AUROC on the responses that every detector of a wide enough reach can score (see `COMMON`); None for the others."""
    win_rate: Interval | None
    """Share of pairs where the hallucinated answer scores above the right one, ties half; None without pairs."""
    win_rate_like_length: Interval | None
    """`win_rate` in the pairs whose lengths differ by at most one word, where length can tell next to nothing."""
    n_like_length: int
    """How many such pairs the detector scores."""


@dataclass(frozen=True)
class Validation:
    """The table, and what it is about."""

    rows: list[DetectorRow]
    n_supported: int
    n_unsupported: int
    n_no_claim: int
    """Responses labelled as claiming nothing; no detector is asked about them."""
    n_clusters: int
    n_common: int


def validate(labelled: Sequence[Labelled], detectors: Sequence[Detector]) -> Validation:
    """Score every response that makes a claim by every detector, `length` among them.

    Raises:
        BenchError: The responses are not of both kinds.
    """
    claims = [one for one in labelled if one.unsupported is not None]
    positive, clusters = [bool(one.unsupported) for one in claims], [one.cluster for one in claims]
    if len(set(positive)) < 2:
        kinds = f"{positive.count(False)} supported and {positive.count(True)} unsupported"
        raise BenchError(f"labelled responses: found {kinds}; expected some of each")
    scores = {d.name: d.scores([one.response for one in claims]) for d in detectors}
    wide = [own for own in scores.values() if sum(not isinstance(score, Undefined) for score in own) >= COMMON * len(claims)]
    common = [i for i in range(len(claims)) if not any(isinstance(own[i], Undefined) for own in wide)]

    pairs = _pairs(claims)
    alike = _like_length(pairs, scores[BASELINE])

    def pick(own: Sequence[Score], indices: Sequence[int]) -> Scored:
        return defined([own[i] for i in indices], [positive[i] for i in indices], [clusters[i] for i in indices])[0]

    rows = []
    for name, own in scores.items():
        scored, undefined = defined(own, positive, clusters)
        kept = [i for i, score in enumerate(own) if not isinstance(score, Undefined) and not isinstance(scores[BASELINE][i], Undefined)]
        ours, lengths = pick(own, kept), pick(scores[BASELINE], kept)
        shared = pick(own, common)
        rows.append(
            DetectorRow(
                detector=name, n_scored=len(scored.scores), undefined=undefined,
                auroc=auroc_interval(scored) if scored.has_both else None,
                average_precision=average_precision(scored) if scored.has_both else None,
                prevalence=float(scored.positive.mean()) if len(scored.positive) else None,
                over_length=auroc_difference(ours, lengths) if name != BASELINE and ours.has_both else None,
                auroc_common=float(auroc(shared.scores, shared.positive)) if own in wide and shared.has_both else None,
                win_rate=_win_rate(claims, own, pairs),
                win_rate_like_length=_win_rate(claims, own, alike),
                n_like_length=len(_scored(alike, own)),
            )
        )  # fmt: skip
    n_unsupported = sum(positive)
    return Validation(rows, len(claims) - n_unsupported, n_unsupported, len(labelled) - len(claims), len(set(clusters)), len(common))


Pair = tuple[int, int]
"""Indices of the right and the hallucinated answer to one question."""


def _pairs(claims: Sequence[Labelled]) -> list[Pair]:
    right = {one.pair: i for i, one in enumerate(claims) if one.pair is not None and not one.unsupported}
    return [(right[one.pair], i) for i, one in enumerate(claims) if one.unsupported and one.pair in right]


def _like_length(pairs: Sequence[Pair], lengths: Sequence[Score]) -> list[Pair]:
    """Those whose lengths differ by at most one word."""
    return [(a, b) for a, b in _scored(pairs, lengths) if abs(_number(lengths[a]) - _number(lengths[b])) <= 1]


def _scored(pairs: Sequence[Pair], scores: Sequence[Score]) -> list[Pair]:
    return [pair for pair in pairs if not any(isinstance(scores[i], Undefined) for i in pair)]


def _number(score: Score) -> float:
    assert not isinstance(score, Undefined)
    return score


def _win_rate(claims: Sequence[Labelled], scores: Sequence[Score], pairs: Sequence[Pair]) -> Interval | None:
    whole = _scored(pairs, scores)
    if not whole:
        return None
    wins = [(1 + float(np.sign(_number(scores[b]) - _number(scores[a])))) / 2 for a, b in whole]
    return clustered_interval(wins, [claims[a].cluster for a, _ in whole], clip=True)


def render(found: Validation, format: str) -> str:
    """The table as md (rounded), csv or json (full precision). Raises `BenchError` for another format."""
    if format not in FORMATS:
        raise BenchError(f'format "{format}" is unknown: {did_you_mean(format, FORMATS)}')
    if format == "json":
        rows = [{key: _named(value) for key, value in vars(row).items()} for row in found.rows]
        return json.dumps(asdict(found) | {"rows": rows}, indent=2) + "\n"
    if format == "csv":
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        flat = [_flat(row) for row in found.rows]
        writer.writerow(flat[0])
        writer.writerows(row.values() for row in flat)
        return text.getvalue()
    return _markdown(found)


def _named(value: Any) -> Any:
    return value._asdict() if isinstance(value, Interval) else value


def _flat(row: DetectorRow) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in vars(row).items():
        if key in ("auroc", "over_length", "win_rate", "win_rate_like_length"):
            flat |= dict(zip((key, f"{key}_low", f"{key}_high"), value or (None, None, None), strict=True))
        else:
            flat[key] = "; ".join(f"{reason} {n}" for reason, n in value.items()) if key == "undefined" else value
    return flat


def _markdown(found: Validation) -> str:
    paired = any(row.win_rate for row in found.rows)
    head = ["detector", "scored", "undefined", "AUROC [95 %]", "AP (prevalence)", "AUROC - length's [95 %]"]
    head += [f"AUROC on {found.n_common} common", *(["pairs won [95 %]", "of like length (pairs)"] if paired else [])]
    lines = [
        f"{found.n_supported} supported and {found.n_unsupported} unsupported responses to {found.n_clusters} evidence texts;"
        f" {found.n_no_claim} without a claim left out.",
        "",
        f"| {' | '.join(head)} |",
        f"|{'|'.join(['---'] * len(head))}|",
    ]
    for row in found.rows:
        reasons = "; ".join(f"{n} {reason}" for reason, n in row.undefined.items())
        precision = "–" if row.average_precision is None else f"{row.average_precision:.3f} ({row.prevalence:.3f})"
        cells = [row.detector, str(row.n_scored), reasons or "0", _shown(row.auroc), precision, _shown(row.over_length, sign="+")]
        cells.append("–" if row.auroc_common is None else f"{row.auroc_common:.3f}")
        cells += [_shown(row.win_rate), f"{_shown(row.win_rate_like_length)} ({row.n_like_length})"] if paired else []
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _shown(interval: Interval | None, sign: str = "") -> str:
    if interval is None:
        return "–"
    bounds = "" if interval.low is None or interval.high is None else f" [{interval.low:{sign}.3f}, {interval.high:{sign}.3f}]"
    return f"{interval.value:{sign}.3f}{bounds}"
