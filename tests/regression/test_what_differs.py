"""What two runs do not share, as a check says it."""

from __future__ import annotations

import numpy as np
from regression.constructed_runs import arm_of, side_of

from bench.regression.check import compare
from bench.regression.model import Gates

RIGHT = np.ones(4)
CONFIG = {"strategy": {"prompt": {"shots": 0}, "tuning": {"method": "none"}}, "dtype": "float32", "window": 512}


def configurations(before: dict[str, object], after: dict[str, object], cell_id: str = "same") -> list[tuple[str, str, str]]:
    old = side_of(arm_of("rag", [RIGHT], config=before, cell_id="same"))
    new = side_of(arm_of("rag", [RIGHT], config=after, cell_id=cell_id))
    found = compare("accepted", old, new, Gates()).differences
    return [(d.what, d.before, d.after) for d in found if d.part == "configuration"]


def test_what_a_newer_version_writes_down_for_the_first_time_is_no_other_configuration() -> None:
    window = ("questions/rag: window", "512", "256")
    assert configurations(CONFIG, CONFIG | {"window": 256, "n_validation": 40}) == [window]
    assert configurations(CONFIG | {"n_validation": 40}, CONFIG) == []
    # Of another cell it may be what makes it another one.
    assert configurations(CONFIG, CONFIG | {"window": 256, "cite": True}, "other") == [window, ("questions/rag: cite", "null", "true")]
