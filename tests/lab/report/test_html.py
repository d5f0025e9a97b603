"""The page of a sweep, as text and in a browser: it sorts, filters, fits every screen and makes no requests."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorfact.lab.data import VTAB
from tensorfact.lab.plots.style import COLOURS, COLOURS_ON_DARK, LINES, MARKERS
from tensorfact.lab.report import Summary, page, summarize
from tensorfact.lab.report.html import page_data
from tensorfact.lab.sweep import Results, RunSpec, Sweep, SweepPart, SweepRow
from tests.browser import chromium
from tests.results import HOSTILE, ROWS, example, results, sweep

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Route


@given(st.text(max_size=30), st.text(max_size=30))
def test_the_page_ends_no_script_before_its_end(label: str, name: str) -> None:
    part = SweepPart("one", "One", "nano", ("digits",), (SweepRow(f"{label}</script>", ("tt:rank=2",)),))
    text = page(summarize(Results(Sweep(f"{name}<!--<script>@@DATA@@", (part,)), {}, ())))
    blocks = re.findall(r"<script[^>]*>(.*?)</script>", text, re.DOTALL)
    assert len(blocks) == text.count("<script") == text.count("</script") == 2
    data = json.loads(blocks[0])
    assert data["name"] == f"{name}<!--<script>@@DATA@@"
    assert data["parts"][0]["rows"][0]["label"] == f"{label}</script>"
    assert "<!--" not in text


def test_the_page_names_no_other_file() -> None:
    text = page(summarize(example()))
    assert set(re.findall(r"""(?:src|href)=["']([^"'#])""", text)) == {"d"}  # the empty icon, data:,
    assert set(re.findall(r"https?://[^\"]+", text)) == {"http://www.w3.org/2000/svg"}
    assert not re.findall(r"url\(|@import|fetch\(|XMLHttp", text)
    assert "default-src 'none'" in text


def test_the_page_has_the_colours_and_markers_of_the_pictures() -> None:
    text = page(summarize(example()))
    for at, (light, dark) in enumerate(zip(COLOURS, COLOURS_ON_DARK, strict=True)):
        assert text.index(f".c{at}{{--c:{light}}}") < text.index(f".c{at}{{--c:{dark}}}")
    data = json.loads(re.findall(r"<script[^>]*>(.*?)</script>", text, re.DOTALL)[0])
    assert data["look"] == {"colours": len(COLOURS), "markers": MARKERS, "lines": list(LINES)}


def test_specs_on_the_page_are_those_of_the_runs(summary: Summary) -> None:
    data = json.loads(json.dumps(page_data(summary), allow_nan=False))
    found = summary.results.runs
    assert len(data["runs"]) == len(found)
    for run in data["runs"]:
        fields = {**data["shared"], **run["spec"]}
        text = "{" + ", ".join(f'"{name}": {fields[name]}' for name in sorted(fields)) + "}"
        assert text == found[run["id"]].spec.to_json()
        assert RunSpec.from_json(text).id == run["id"]


# --------------------------------------------------------------------------------------------------------- in a browser

LABELS = [row.label for row in ROWS]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def opened(browser: Browser, tmp_path: Path) -> Iterator[Callable[..., Page]]:
    """Return a function that opens results in a browser; afterwards check for no errors and no other requests."""
    pages: list[Page] = []
    complaints: list[str] = []

    def only(address: str) -> Callable[[Route], None]:
        def answer(route: Route) -> None:
            if route.request.url == address:
                route.continue_()
            else:
                complaints.append(route.request.url)
                route.abort()

        return answer

    def go(found: Results, *, width: int = 1400, scheme: Any = "light") -> Page:
        file = tmp_path / "report.html"
        file.write_text(page(summarize(found)), "utf-8")
        view = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        pages.append(view)
        view.on("console", lambda message: complaints.append(message.text))
        view.on("pageerror", lambda error: complaints.append(str(error)))
        view.route("**/*", only(file.as_uri()))
        view.goto(file.as_uri())
        return view

    yield go
    for view in pages:
        view.close()
    assert not complaints


def names(view: Page) -> list[str]:
    found: list[str] = view.locator("#table tbody th[scope=row]").all_inner_texts()
    return found


def drawn(view: Page, chart: str) -> set[str]:
    found: list[str] = view.evaluate(f"[...document.querySelectorAll('{chart} .series')].map(e => e.dataset.row)")
    return set(found)


def sort(view: Page, heading: str) -> str | None:
    column = view.locator("#table thead th").filter(has_text=heading).last
    column.get_by_role("button").press("Enter")
    return column.get_attribute("aria-sort")


def labels(view: Page, chart: str) -> dict[str, dict[str, float]]:
    """Return where the names in a chart stand."""
    place = "(({left, right, top, bottom}) => ({left, right, top, bottom}))(e.getBoundingClientRect())"
    names = (
        f"[...document.querySelectorAll('{chart} .called')].map(e => [e.querySelector('title').textContent, {place}])"
    )
    found: list[tuple[str, dict[str, float]]] = view.evaluate(names)
    return dict(found)


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1400])
@pytest.mark.parametrize("count", [0, 24])
def test_names_stand_beside_their_series_and_apart(opened: Callable[..., Page], width: int, count: int) -> None:
    rows = tuple(SweepRow(f"method {at}", (f"tt:rank={1 + at}", f"tt:rank={2 + at}")) for at in range(count))
    found = results(sweep(rows=rows)) if count else example()
    view = opened(found, width=width)
    for chart in ("#size", "#rank", "#loss", "#selected"):
        written, box = labels(view, chart), view.locator(f"{chart} svg.chart").bounding_box()
        assert set(written) == drawn(view, chart)
        assert box is not None
        for one, other in itertools.combinations(written.values(), 2):
            wide = min(one["right"], other["right"]) - max(one["left"], other["left"])
            high = min(one["bottom"], other["bottom"]) - max(one["top"], other["top"])
            assert wide <= 1 or high <= 3, "the boxes of two lines of text touch"
        for each in written.values():
            assert box["x"] <= each["left"]
            assert each["right"] <= box["x"] + box["width"] + 1
    assert view.locator("#charts .legend").count() == 0


@pytest.mark.browser
def test_headers_sort(opened: Callable[..., Page], summary: Summary) -> None:
    view = opened(example())
    assert names(view) == LABELS
    means = {row.row.label: row.accuracy.mean for row in summary.parts[0].rows if row.accuracy}
    upwards = sorted(means, key=lambda label: means[label])
    missing = [label for label in LABELS if label not in means]
    assert sort(view, "overall mean") == "descending"
    assert names(view) == [*reversed(upwards), *missing]
    assert sort(view, "overall mean") == "ascending"  # the key pressed again: focus stayed
    assert names(view) == [*upwards, *missing]
    assert sort(view, "method") == "ascending"
    assert names(view) == sorted(LABELS, key=str.lower)
    assert view.locator("#table [aria-sort=ascending]").count() == 1


@pytest.mark.browser
def test_filters_hold_for_the_table_and_for_charts(opened: Callable[..., Page]) -> None:
    view = opened(example())
    assert drawn(view, "#size") == set(LABELS) - {"BitFit", "Tucker"}
    assert drawn(view, "#step") == set(LABELS)
    view.get_by_role("checkbox", name="fact").uncheck()
    left = [label for label in LABELS if not label.startswith("FacT")]
    assert names(view) == left
    assert drawn(view, "#step") == set(left)
    assert drawn(view, "#rank") == {"LoRA", "Tucker"}
    assert view.locator("#count").inner_text() == f"6 of {len(LABELS)} methods"
    view.get_by_label("Filter methods by name").fill("vpt DEEP")
    assert names(view) == ["VPT-Deep"]
    assert drawn(view, "#size") == {"VPT-Deep"}
    view.get_by_label("Filter methods by name").fill("nothing is called so")
    assert view.get_by_text("No method matches the filter.").is_visible()
    assert not drawn(view, "#size")


@pytest.mark.browser
def test_parts_are_chosen(opened: Callable[..., Page]) -> None:
    view = opened(example())
    view.get_by_role("radio", name="swin").check()
    assert names(view) == [LABELS[0], *LABELS[-3:]]
    assert view.locator("#table-title").inner_text() == "A few shots on a Swin-B"
    assert drawn(view, "#size") == set(names(view))


@pytest.mark.browser
def test_tooltips_tell_the_numbers(opened: Callable[..., Page], summary: Summary) -> None:
    view = opened(example())
    row = next(row for row in summary.parts[0].rows if row.row.label == "FacT-TT")
    assert row.accuracy is not None
    assert row.accuracy.spread is not None
    assert row.parameters is not None
    numbers = f"{100 * row.accuracy.mean:.1f} ± {100 * row.accuracy.spread:.1f} %"
    view.locator("#size [data-row='FacT-TT'] .point .hit").hover()
    assert view.locator("#tip").inner_text().splitlines() == ["FacT-TT", f"{row.parameters:,.0f} parameters", numbers]
    view.keyboard.press("Escape")
    assert not view.locator("#tip").is_visible()
    view.locator("#size [data-row='linear probe']").focus()
    assert view.locator("#tip").inner_text().splitlines()[:2] == ["linear probe", "0 parameters"]
    point = row.ranks[2]
    view.locator("#rank [data-row='FacT-TT'] .point").nth(2).focus()
    assert f"rank {point.rank}: {100 * point.accuracy:.1f} %" in view.locator("#tip").inner_text()


@pytest.mark.browser
def test_curves_are_those_of_the_chosen_task_and_rows(opened: Callable[..., Page], summary: Summary) -> None:
    view = opened(example())
    view.locator("#task").select_option("kitti")
    assert drawn(view, "#loss") == set(LABELS)
    view.locator("#training-legend").get_by_role("button", name="LoRA").click()
    assert drawn(view, "#loss") == set(LABELS) - {"LoRA"}
    assert drawn(view, "#selected") == {"FacT-TT", "FacT-TK", "Tucker"}
    view.locator("#selected rect.hit").focus()
    view.keyboard.press("ArrowLeft")  # epoch 11, the last that was validated
    cell = next(row for row in summary.parts[0].rows if row.row.label == "Tucker").cells[-1]
    assert cell.chosen is not None
    value = cell.chosen.outcome.epochs[10]["val_accuracy"]
    assert value is not None
    shown = view.locator("#tip").inner_text().splitlines()
    assert shown[0] == "epoch 11"
    assert f"{100 * value:.1f} %  Tucker" in shown


@pytest.mark.browser
def test_cells_show_what_was_chosen(opened: Callable[..., Page]) -> None:
    view = opened(example())
    view.get_by_role("radio", name="Chosen options").check()
    cells = view.locator("#table tbody tr[data-row='FacT-TT'] td").all_inner_texts()
    assert any(cell == "rank=16, scale 1" for cell in cells)
    assert view.locator("#table tbody tr[data-row='BitFit'] td.failed").inner_text() == "failed"
    assert "seed 1: the loss is no longer finite: </script>" in view.locator("#gaps").inner_text()
    assert "Tucker: dmlab" in view.locator("#gaps").inner_text()


@pytest.mark.browser
def test_specs_are_found_and_whole(opened: Callable[..., Page], summary: Summary) -> None:
    view = opened(example())
    assert view.locator(".run").count() == 50
    view.locator("#more").click()
    assert view.locator(".run").count() == 100
    view.get_by_label("Search the specs").fill('fact-tt:rank=16 kitti final "seed 1"')
    assert view.locator(".run").count() == 1
    view.locator(".run summary").click()
    spec = RunSpec.from_json(view.locator(".run pre").inner_text())
    assert spec == summary.results.runs[spec.id].spec
    view.get_by_label("Search the specs").fill("failed")
    assert view.locator(".run .failed").all_inner_texts() == ["failed"]


@pytest.mark.browser
def test_hostile_text_stays_text(opened: Callable[..., Page]) -> None:
    view = opened(example())
    assert HOSTILE in names(view)
    assert view.locator("main b[a]").count() == 0


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1400])
@pytest.mark.parametrize("kind", ["whole", "released", "empty"])
def test_it_fits(opened: Callable[..., Page], tmp_path: Path, kind: str, width: int, scheme: str) -> None:
    found = results(sweep(), lambda spec: False) if kind == "empty" else example(released=kind == "released")
    view = opened(found, width=width, scheme=scheme)
    for name in ("vit", "swin"):
        view.get_by_role("radio", name=name).check()
        wider: int = view.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        assert wider <= 0
    assert view.locator("#note").is_visible() == (kind == "released")
    assert view.get_by_text("selected on the test split", exact=False).count() >= (4 if kind == "released" else 0)
    background: str = view.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") == (scheme == "light")
    view.screenshot(path=tmp_path / f"{kind}-{width}-{scheme}.png", full_page=True)  # to look at


@pytest.mark.browser
def test_it_is_drawn_again_when_the_screen_turns(opened: Callable[..., Page]) -> None:
    from playwright.sync_api import expect  # an extra of its own

    view = opened(example(), width=1400)
    chart = view.locator("#size svg.chart")
    before = chart.get_attribute("width")
    assert before is not None
    view.set_viewport_size({"width": 390, "height": 844})
    expect(chart).not_to_have_attribute("width", before)  # the page forbids eval, so no wait_for_function
    assert float(chart.get_attribute("width") or "inf") < float(before)
    assert view.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0


@pytest.mark.browser
def test_it_prints(opened: Callable[..., Page]) -> None:
    view = opened(results(sweep(tasks=tuple(f"vtab:{name}" for name in VTAB))), width=1031, scheme="dark")  # A4, across
    view.emulate_media(media="print")
    assert view.locator("#groups .fill").first.is_visible()
    assert not view.locator("#tools").is_visible()
    assert view.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0
    assert view.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
