"""One way of writing each kind of number, in tables and in sentences."""

import pytest

from bench.report.model import Measure
from bench.report.numbers import Unit, in_words, interval_in_words, shown, shown_interval, with_interval


@pytest.mark.parametrize(
    ("value", "unit", "signed", "text"),
    [
        (0.5, "share", False, "50.0 %"), (-0.0001, "share", True, "0.0 %"), (0.0312, "share", True, "+3.1 %"),
        (-0.0312, "share", True, "-3.1 %"), (0.0312, "points", True, "+3.1 points"), (0.0, "points", True, "0.0 points"),
        (0.00123, "usd", False, "0.00123"), (0.0, "usd", False, "0"), (12.345, "usd", False, "12.3"), (1234.5, "usd", False, "1,234"),
        (2e-06, "usd", False, "2.00e-6"), (4.0, "count", False, "4"), (116736.0, "count", False, "117 k"),
        (0.0375, "seconds", False, "38 ms"), (0.25, "seconds", False, "0.25 s"), (0.0, "seconds", False, "0 s"),
        (0.0, "bytes", False, "0 B"), (1023.0, "bytes", False, "1023 B"), (1536.0, "bytes", False, "1.5 KiB"),
        (1000 * 2**20, "bytes", False, "1000 MiB"), (3 * 2**30, "bytes", False, "3 GiB"), (-5 * 2**20, "bytes", False, "-5 MiB"),
        (0.1234, "number", False, "0.123"), (0.1234, "number", True, "+0.123"), (0.000345, "number", False, "0.00034"),
        (0.0, "number", False, "0.000"), (1234.56, "number", False, "1,234.6"),
    ],
)  # fmt: skip
def test_numbers_as_they_are_read(value: float, unit: Unit, signed: bool, text: str) -> None:
    assert shown(value, unit, signed=signed) == text


def test_intervals() -> None:
    assert shown_interval(Measure(0.5, 0.4, 0.6), "share") == "[40.0, 60.0]"
    assert shown_interval(Measure(0.5), "share") == shown_interval(Measure(0.5, 0.5, 0.5), "share") == ""
    assert shown_interval(Measure(0.5, None, 0.6), "share") == ""
    assert shown_interval(Measure(0.05, 0.04, 0.06), "seconds") == "[40, 60]"
    assert shown_interval(Measure(-0.1, -0.2, 0.05), "share", signed=True) == "[-20.0, +5.0]"


def test_an_interval_in_another_unit_than_its_number_says_so() -> None:
    assert shown_interval(Measure(0.09, 0.04, 0.2), "seconds") == "[40 ms, 0.2 s]"
    assert shown_interval(Measure(0.049, 0.0, 0.1), "seconds") == "[0 s, 0.1 s]"
    assert shown_interval(Measure(900 * 2**20, 2**30, 2**31), "bytes") == "[1 GiB, 2 GiB]"


def test_in_a_sentence_dollars_have_their_unit() -> None:
    assert with_interval(Measure(2, 1, 3), "usd") == "2.00 [1.00, 3.00]"
    assert interval_in_words(Measure(2, 1, 3), "usd") == "2.00 USD [1.00, 3.00]"
    assert interval_in_words(Measure(0.5, 0.5, 0.5), "share") == "50.0 %"
    assert interval_in_words(Measure(-0.0001, -0.1, 0.1), "points") == "0.0 points [-10.0, 10.0]"
    assert in_words(0, "usd") == "0 USD"


def test_a_limit_has_no_more_digits_than_it_was_given() -> None:
    assert (in_words(0.1, "share"), in_words(0.125, "share"), in_words(2.0, "number")) == ("10 %", "12.5 %", "2")
    assert (in_words(2**31, "bytes"), in_words(100.0, "number"), in_words(0.0, "points")) == ("2 GiB", "100", "0 points")
