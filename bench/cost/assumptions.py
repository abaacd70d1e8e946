"""What a total cost assumes about the deployment, as data: volume, horizon, refreshes, labels, errors."""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field

from bench.errors import BenchError
from bench.settings import parse_settings

DEFAULT_ASSUMPTIONS = Path(__file__).with_name("assumptions.yaml")


class _Given(BaseModel):
    """A file with some of the keys, whatever they are: they are checked together with the rest."""

    model_config = ConfigDict(extra="allow")


class Assumptions(BaseModel):
    """The keys of an assumptions file."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    requests_per_month: float = Field(gt=0)
    horizon_months: float = Field(gt=0)
    """Months over which set-up is spread; nothing is discounted."""
    refreshes_per_month: float = Field(ge=0)
    """How often the knowledge or the labels change, so that indexes are built again, weights trained again and shots checked again."""
    relabel_share: float = Field(ge=0, le=1)
    """Share of the labels that a refresh makes worthless and that are bought again, by the strategies that use labels."""
    revalidate: bool
    """Whether a new index or new shots are scored on the validation examples. Training always is: it keeps the best checkpoint."""
    utilisation: float = Field(gt=0, le=1)
    """Share of the paid time of a serving device that it works; requests pay for the rest. Set-up uses a device that is let go after."""
    prefix_cached: bool
    """Whether requests find the part of the prompt that all share in a cache, as they do in a run of this harness."""
    label_usd_per_example: float = Field(ge=0)
    error_usd: float = Field(ge=0)
    """What a wrong answer costs whoever relies on it."""
    abstention_weight: float = Field(ge=0)
    """How bad it is to abstain from a question that has an answer, a wrong answer being 1; 0: it costs nothing."""
    price_factor: float = Field(ge=1)
    """Every price is uncertain by this factor either way; 1: prices are certain. Labels and errors are taken as stated."""

    @property
    def requests(self) -> float:
        """Over the horizon."""
        return self.requests_per_month * self.horizon_months

    @property
    def refreshes(self) -> float:
        """Over the horizon."""
        return self.refreshes_per_month * self.horizon_months


def load_assumptions(path: Path | None = None) -> Assumptions:
    """The assumptions that come with the package, with those of a file over them.

    Raises `BenchError` for a file that is missing, no YAML, or has an unknown or wrong key.
    """
    standard = DEFAULT_ASSUMPTIONS.read_text()
    if path is None:
        return parse_settings(Assumptions, standard, str(DEFAULT_ASSUMPTIONS))
    try:
        text = path.read_text()
    except OSError as error:
        raise BenchError(f"{path}: cannot be read ({error.strerror}); expected a file of assumptions") from error
    given = parse_settings(_Given, text, str(path)).model_extra or {}
    return parse_settings(Assumptions, yaml.safe_dump({**yaml.safe_load(standard), **given}), str(path))
