"""The report in a real browser: it asks for nothing, says no error, and its controls work, by keyboard too."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from report.cases import HOSTILE, IMAGE, SCRIPT, evidence, hostile_task

from bench.report.constraints import Constraints
from bench.report.contents import decided
from bench.report.model import Measure
from bench.report.page import SECTIONS, render_page
from bench.result.text import visible

CHROMIUM = Path("/usr/bin/chromium")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no Chromium at {CHROMIUM}")
LORA = f"lora {IMAGE}"


@dataclass
class Opened:
    """A page and what went on while it was open."""

    page: Any
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    given, wanted = evidence(hostile_task(lora=LORA, questions=40), hostile_task(f"triage {SCRIPT}")), Constraints()
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(render_page(given, decided(given, wanted), wanted), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield opened
        opened.close()


def open_page(browser: Any, file: Path, **options: Any) -> Opened:
    opened = Opened(browser.new_page(**options))
    opened.page.on("console", lambda message: opened.said.append(message.text))
    opened.page.on("pageerror", lambda error: opened.said.append(str(error)))
    opened.page.on("dialog", lambda dialog: (opened.said.append(f"dialog {dialog.message}"), dialog.dismiss()))
    opened.page.on("request", lambda request: opened.asked.append(request.url))
    opened.page.goto(file.as_uri())
    return opened


@pytest.fixture
def opened(browser: Any, file: Path) -> Iterator[Opened]:
    """Desktop, light; whatever the test did, nothing was asked for and no error said."""
    found = open_page(browser, file, viewport={"width": 1280, "height": 1000})
    yield found
    assert found.said == []
    assert found.asked == [file.as_uri()]
    found.page.close()


def rows(opened: Opened) -> list[str]:
    """The strategies that the first task's comparison shows, from top to bottom."""
    found = opened.page.locator("[data-comparison=task-0] tbody tr:visible")
    return [row.get_attribute("data-strategy") for row in found.all()]


def test_all_sections_are_there_and_one_task_at_a_time(opened: Opened) -> None:
    for key, _ in SECTIONS:
        assert opened.page.locator(f"#task-0-{key}").is_visible()
        assert not opened.page.locator(f"#task-1-{key}").is_visible()
    opened.page.get_by_role("navigation", name="Tasks").get_by_role("link", name="triage").click()
    assert opened.page.locator("#task-1-answer").is_visible()
    assert not opened.page.locator("#task-0-answer").is_visible()
    assert opened.page.locator("nav.tasks a[aria-current]").count() == 1
    opened.page.go_back()
    assert opened.page.locator("#task-0-answer").is_visible()
    opened.page.get_by_role("link", name="All tasks").click()
    assert opened.page.locator("#task-0-answer").is_visible()
    assert opened.page.locator("#task-1-answer").is_visible()


def test_the_table_is_narrowed_by_text_and_family(opened: Opened) -> None:
    assert len(rows(opened)) == 6
    opened.page.get_by_label("Find a strategy").first.fill("shot")
    assert sorted(rows(opened)) == ["few-shot", "zero-shot"]
    assert opened.page.locator("[data-count=task-0]").inner_text() == "2 of 6 strategies"
    opened.page.get_by_label("Find a strategy").first.fill("")
    opened.page.get_by_label("Family").first.select_option("tuning")
    assert rows(opened) == [LORA]


def test_the_table_is_sorted_by_its_headings_with_the_keyboard(opened: Opened) -> None:
    head = opened.page.locator("[data-comparison=task-0] thead th", has_text="Hallucination")
    head.get_by_role("button").focus()
    opened.page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    assert rows(opened) == ["majority", "zero-shot", "few-shot", LORA, "rag-oracle", "full"]
    opened.page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    # what was not measured stays last
    assert rows(opened) == ["rag-oracle", LORA, "few-shot", "zero-shot", "majority", "full"]
    assert opened.page.locator("[data-comparison=task-0] th[aria-sort]").count() == 1


def test_the_table_of_all_columns_fits_on_a_laptop(browser: Any, tmp_path: Path) -> None:
    task = hostile_task(lora="few-shot-nearest-lora")
    widest = {
        "usd_per_1000_requests": Measure(5.66e-4, 2.12e-4, 8.97e-4), "total_usd": Measure(0.0537, 0.0201, 0.0999),
        "hallucination_rate": Measure(0.988, 0.888, 1.0), "abstention_rate": Measure(0.988, 0.888, 1.0),
        "latency_p95_seconds": Measure(0.037, 0.035, 0.039), "peak_memory_bytes": Measure(999 * 2**20),
        "artifact_bytes": Measure(999 * 2**10), "trainable_params": Measure(117e3),
    }  # fmt: skip
    task = replace(task, candidates=tuple(replace(c, measures={**widest, "quality": Measure(0.988, 0.888, 1.0)}) for c in task.candidates))
    given, wanted = evidence(task), Constraints()
    path = tmp_path / "wide.html"
    path.write_text(render_page(given, decided(given, wanted), wanted), encoding="utf-8")
    opened = open_page(browser, path, viewport={"width": 1280, "height": 1000})
    table = opened.page.locator("[data-comparison=task-0]")
    assert table.locator("thead th").count() == 5 + len(widest)
    assert table.evaluate("e => e.scrollWidth - e.parentElement.clientWidth") <= 0
    opened.page.close()


def test_another_baseline_turns_the_differences(opened: Opened) -> None:
    def cell(strategy: str) -> str:
        row = opened.page.locator("[data-comparison=task-0] tbody tr").filter(has=opened.page.locator(f"th[data-value='{strategy}']"))
        return " ".join(row.locator("[data-difference]").inner_text().split())

    assert cell(LORA) == "+40.0 points [+38.0, +42.0] better"
    opened.page.get_by_label("Baseline").first.select_option(LORA)
    assert cell("zero-shot") == "-40.0 points [-42.0, -38.0] worse"
    assert cell(LORA) == "0 baseline"
    assert cell("majority") == "–"
    assert opened.page.locator("[data-baseline-name]").first.inner_text() == LORA


def test_items_are_searched_and_narrowed(opened: Opened) -> None:
    opened.page.locator("#task-0-browse").scroll_into_view_if_needed()
    items = opened.page.locator("[data-items=task-0] > .question")
    playwright.expect(items).to_have_count(10)
    opened.page.get_by_role("button", name="Show more").first.click()
    playwright.expect(items).to_have_count(20)
    search = opened.page.get_by_label("Search texts, answers and ids").first
    search.fill("right 17")
    playwright.expect(items).to_have_count(1)
    assert items.first.get_attribute("data-item") == "item-17"
    search.fill("")
    # the recommended one is wrong on every fifth of the forty
    opened.page.locator("[data-which=task-0]").select_option("wrong")
    playwright.expect(opened.page.locator("[data-found=task-0]")).to_have_text("8 of 40 items")


def test_hostile_items_are_shown_as_text(opened: Opened) -> None:
    opened.page.locator("#task-0-browse").scroll_into_view_if_needed()
    search = opened.page.get_by_label("Search texts, answers and ids").first
    for place in (4, 5, 6, len(HOSTILE) - 1):
        search.fill(f"item-{place:02}")
        items = opened.page.locator("[data-items=task-0] > .question")
        playwright.expect(items).to_have_count(1)
        playwright.expect(items).to_have_attribute("data-item", f"item-{place:02}")
        assert items.locator("blockquote").first.text_content() == visible(f"Question {place}: {HOSTILE[place]}")
    search.fill("item-00")
    playwright.expect(opened.page.locator("[data-items=task-0] blockquote").first).to_have_text(f"Question 0: {SCRIPT}")
    assert opened.page.locator("img").count() == 0
    assert opened.page.locator("script").count() == 3


def test_buttons_and_fields_have_names(opened: Opened) -> None:
    for control in opened.page.locator("button:visible, select:visible, input:visible, summary:visible").all():
        name = control.evaluate("e => e.getAttribute('aria-label') || e.innerText || (e.labels && e.labels[0] && e.labels[0].innerText)")
        assert name
        assert name.strip()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_scrolls_tables_and_not_the_page(browser: Any, file: Path, scheme: str, tmp_path: Path) -> None:
    opened = open_page(browser, file, viewport={"width": 390, "height": 844}, color_scheme=scheme)
    opened.page.locator("nav.tasks a").last.click()  # all tasks
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 390
    opened.page.screenshot(path=tmp_path / f"phone-{scheme}.png")
    assert (tmp_path / f"phone-{scheme}.png").stat().st_size > 10_000
    assert opened.said == []
    opened.page.close()


def test_dark_and_light_are_told_apart_and_both_have_contrast(browser: Any, file: Path) -> None:
    for scheme, dark in (("light", False), ("dark", True)):
        opened = open_page(browser, file, color_scheme=scheme)
        paper, ink, soft = opened.page.evaluate(
            "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color,"
            " getComputedStyle(document.querySelector('.soft')).color]"
        )
        assert (_luminance(paper) < 0.1) == dark
        assert _contrast(paper, ink) > 7
        assert _contrast(paper, soft) > 4.5  # WCAG 2.1, AA
        opened.page.close()


def _luminance(colour: str) -> float:
    """WCAG 2.1, relative luminance of "rgb(r, g, b)"."""
    parts = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(a: str, b: str) -> float:
    high, low = sorted((_luminance(a), _luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_without_javascript_all_is_there(browser: Any, file: Path) -> None:
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto(file.as_uri())
    for place in range(2):
        for key, _ in SECTIONS:
            assert page.locator(f"#task-{place}-{key}").is_visible()
    assert not page.get_by_label("Find a strategy").first.is_visible()
    page.close()


def test_print_shows_all_tasks_and_no_controls(opened: Opened) -> None:
    opened.page.emulate_media(media="print")
    assert opened.page.locator("#task-1-answer").is_visible()
    assert not opened.page.get_by_label("Find a strategy").first.is_visible()
    assert not opened.page.locator("nav.tasks").is_visible()
    opened.page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert opened.page.locator("details:not([open])").count() == 0
    opened.page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert opened.page.locator("details[open]").count() == 0
    opened.page.set_viewport_size({"width": 1030, "height": 700})  # A4 landscape within its margins
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 1030
    opened.page.emulate_media(media="screen")
