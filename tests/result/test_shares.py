"""Shares of variance against those that were put in."""

from __future__ import annotations

import numpy as np
import pytest

from bench.result.shares import variance_shares


def alone(n: int) -> list[str]:
    return [str(i) for i in range(n)]


def test_by_hand() -> None:
    # MS_I = 2 * (.5^2 + .5^2) = 1, MS_S = 2 * 2 * (.5^2) = 1 and MS_E = 0, of items 0, 1 and seeds 0, 1: the parts are equal.
    shares = variance_shares(np.array([[0.0, 1.0], [1.0, 2.0]]), alone(2))
    assert shares == pytest.approx((0.5, 0.5, 0.0))


@pytest.mark.parametrize("sds", [(1.0, 0.05, 0.5), (0.5, 0.2, 1.0), (1.0, 0.0, 0.0), (0.3, 0.3, 2.0)])
def test_shares_that_were_put_in_are_found(sds: tuple[float, float, float]) -> None:
    generator = np.random.default_rng(0)
    n, n_seeds = 200, 60
    found = []
    for _ in range(40):
        items, seeds = sds[0] * generator.standard_normal(n), sds[1] * generator.standard_normal((n_seeds, 1))
        shares = variance_shares(items + seeds + sds[2] * generator.standard_normal((n_seeds, n)), alone(n))
        assert shares is not None
        assert sum(shares) == pytest.approx(1)
        found.append(shares)
    parts = np.array([sds[0] ** 2 / n, sds[1] ** 2 / n_seeds, sds[2] ** 2 / (n * n_seeds)])
    assert np.mean(found, axis=0) == pytest.approx(parts / parts.sum(), abs=0.03)


def test_items_of_a_cluster_that_go_together_count_as_few() -> None:
    generator = np.random.default_rng(0)
    shares, apart = [], []
    for _ in range(60):
        table = (
            np.repeat(generator.standard_normal(20), 10) + 0.2 * generator.standard_normal((30, 1)) + generator.standard_normal((30, 200))
        )
        shares.append(variance_shares(table, [str(i // 10) for i in range(200)]))
        apart.append(variance_shares(table, alone(200)))
    # Of 20 clusters, 30 seeds and 200 x 30 answers.
    parts = np.array([1 / 20, 0.04 / 30, 1 / 6000])
    assert np.mean(shares, axis=0) == pytest.approx(parts / parts.sum(), abs=0.02)
    assert np.mean(apart, axis=0)[1] > 2 * np.mean(shares, axis=0)[1]


def test_items_that_a_seed_leaves_undefined_are_left_out() -> None:
    table = np.random.default_rng(0).random((3, 50))
    holes = np.concatenate([table, np.full((3, 2), 0.5)], axis=1)
    holes[1, 50:] = np.nan
    assert variance_shares(holes, alone(52)) == variance_shares(table, alone(50))


@pytest.mark.parametrize(
    "table", [np.random.default_rng(0).random((1, 20)), np.full((3, 20), 0.3), np.full((3, 20), np.nan), np.empty((3, 0))]
)
def test_nothing_to_share(table: np.ndarray) -> None:
    assert variance_shares(table, alone(table.shape[1])) is None


def test_one_cluster_has_no_shares() -> None:
    assert variance_shares(np.random.default_rng(0).random((3, 20)), ["a"] * 20) is None
