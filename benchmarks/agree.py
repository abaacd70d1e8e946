"""Whether both sides gave the same answers. A benchmark whose sides differ compares different work, so it fails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

LOGPROB_TOLERANCE = 1e-3
"""Between the two sides' log-probabilities of one option, in nats: batches of other shapes round differently."""
TIE = 1e-4
"""Two answers whose log-probabilities differ by no more are tied, in nats."""


class DisagreementError(Exception):
    """The two sides did not give the same answers."""


def same_items(ours: Mapping[str, object], peer: Mapping[str, object]) -> None:
    """Raises `DisagreementError` where the sides did not answer the same items."""
    if ours.keys() != peer.keys():
        first = min(ours.keys() ^ peer.keys())
        raise DisagreementError(f"{len(ours)} items here, {len(peer)} at the peer; {first}, for one, is on one side only")


def choices(ours: Mapping[str, Sequence[float]], peer: Mapping[str, Sequence[float]]) -> str:
    """Compare the log-probabilities of each item's options, and which option is highest; says how closely they agree.

    Raises `DisagreementError` for an option that differs by more than `LOGPROB_TOLERANCE`, or another choice that is no tie.
    """
    same_items(ours, peer)
    largest, ties = 0.0, 0
    for item, mine in ours.items():
        theirs = peer[item]
        if len(mine) != len(theirs):
            raise DisagreementError(f"item {item}: {len(mine)} options here, {len(theirs)} at the peer")
        for option, (a, b) in enumerate(zip(mine, theirs, strict=True)):
            if not abs(a - b) <= LOGPROB_TOLERANCE:  # NaN agrees with nothing
                raise DisagreementError(f"item {item}, option {option}: log-probability {a:.6f} here, {b:.6f} at the peer")
            largest = max(largest, abs(a - b))
        best, its_best = (max(range(len(row)), key=row.__getitem__) for row in (mine, theirs))
        if best != its_best:
            if abs(theirs[best] - theirs[its_best]) > TIE:
                raise DisagreementError(f"item {item}: option {best} chosen here, {its_best} at the peer, and they are no tie")
            ties += 1
    n = sum(len(row) for row in ours.values())
    return f"{len(ours)} items, {n} options: log-probabilities within {largest:.1e}, {len(ours) - ties} choices equal, {ties} tied"


def texts(ours: Mapping[str, str], peer: Mapping[str, str], gaps: Mapping[str, float] | None = None) -> str:
    """Compare the text of every item.

    `gaps`: for items whose texts differ, by how much the log-probability of the first token that differs is apart.
    Raises `DisagreementError` for a text that differs and is no tie.
    """
    same_items(ours, peer)
    differing = differing_texts(ours, peer)
    for item in differing:
        if gaps is None or not gaps.get(item, float("inf")) <= TIE:
            raise DisagreementError(f"item {item}: {ours[item]!r} here, {peer[item]!r} at the peer (gap {(gaps or {}).get(item)})")
    return f"{len(ours)} items: {len(ours) - len(differing)} texts equal, {len(differing)} tied"


def differing_texts(ours: Mapping[str, str], peer: Mapping[str, str]) -> list[str]:
    return [item for item, text in ours.items() if text != peer[item]]


def tokens(ours: Sequence[object], peer: Sequence[object]) -> None:
    """Raises `DisagreementError` where a request or row is not the same tokens on both sides."""
    if len(ours) != len(peer):
        raise DisagreementError(f"{len(ours)} requests here, {len(peer)} at the peer")
    for i, (mine, theirs) in enumerate(zip(ours, peer, strict=True)):
        if mine != theirs:
            raise DisagreementError(f"request {i} has other tokens at the peer: {mine} here, {theirs} there")


def losses(ours: float, peer: float, before: float, tolerance: float) -> str:
    """Compare the mean loss on the training rows after training, in nats; `before`: of the untrained model.

    Raises `DisagreementError` where they differ by more than the share `tolerance` of what the peer's training took off the loss, or
    nothing was learned.
    """
    if not max(ours, peer) < before:
        raise DisagreementError(f"loss after training: {ours:.4f} here, {peer:.4f} at the peer, {before:.4f} before it")
    if not abs(ours - peer) <= tolerance * (before - peer):
        raise DisagreementError(
            f"loss after training: {ours:.4f} here, {peer:.4f} at the peer, {before:.4f} before it; expected within {tolerance:.1%}"
            " of the fall"
        )
    return f"loss of the training rows {before:.3f} before, {ours:.4f} after here, {peer:.4f} at the peer"


def hits(ours: Sequence[Sequence[int]], ours_scores: Sequence[Sequence[float]], peer: Sequence[Sequence[int]]) -> str:
    """Compare the passages found for each query, best first; those at the same score may change places.

    Raises `DisagreementError` for a passage found by one side only, unless its score ties with the last one's.
    """
    if len(ours) != len(peer):
        raise DisagreementError(f"{len(ours)} queries here, {len(peer)} at the peer")
    ties = 0
    for i, (mine, scores, theirs) in enumerate(zip(ours, ours_scores, peer, strict=True)):
        for a, b, score in zip(mine, theirs, scores, strict=True):
            if a == b:
                continue
            place = list(mine).index(b) if b in mine else len(mine) - 1
            if abs(scores[place] - score) > TIE:
                raise DisagreementError(f"query {i}: passages {list(mine)} here, {list(theirs)} at the peer")
            ties += 1
    return f"{len(ours)} queries: the same passages, {ties} at tied places"
