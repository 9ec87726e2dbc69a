"""The report in a real browser, offline: it opens at once, its figures are linked, a token is found, nothing fails."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from analysis_samples import made_models, made_results, made_sensitivity, made_tokens
from browser import becomes, chromium, needs_chromium, new_page

from lcutils.charts.tokens import TOKEN_COLUMNS
from lcutils.report import write_analysis
from lcutils.report.parts import number_words

RESULTS = made_results()
COLUMNS = [
    *RESULTS.columns[:14],
    "nc1_cdnv",
    "gnc2_log_uncentred_cov",
    "nc3_cosine_mean",
    "unc3_cosine_cov",
    "nc4_agreement",
]
FAINT = "nodes => nodes.filter(node => +node.getAttribute('opacity') < 0.2).length"

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    results = RESULTS[COLUMNS]
    folder = tmp_path_factory.mktemp("analysis")
    settings = {"title": "Made up", "analysis": {"permutations": 99}}
    tokens = {"04x0256_03d@2": made_tokens(), "01x0064_03d@0": made_tokens(300)}
    sensitivity = made_sensitivity(results)
    write_analysis(
        results, folder, title="Made up", settings=settings, tokens=tokens, sensitivity=sensitivity, published=results
    )
    return folder / "report.html"


@pytest.fixture(scope="module")
def browser():
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def opened(browser, report):
    """The report, opened without a network, scrolled to its figures."""
    with new_page(browser, offline=True) as (page, errors):
        page.goto(report.as_uri())
        for name in ("figure_1", "figure_2", "losses"):
            page.evaluate("name => document.getElementById(name).scrollIntoView()", name)
            page.wait_for_selector(f"#drawing-{name}[data-drawn]")
        page.evaluate("() => document.getElementById('figure_1').scrollIntoView()")
        yield page, errors
        assert errors == []


def points(page, figure: str):
    return page.locator(f"#drawing-{figure} .mark-symbol path[aria-roledescription=circle]")


def faint(page, figure: str) -> int:
    return points(page, figure).evaluate_all(FAINT)


def test_it_is_small(report):
    assert report.stat().st_size < 5_000_000


def test_a_click_on_a_model_shows_it_everywhere(opened):
    page, _ = opened
    # Four panels have points: the table has no centred GNC2.
    assert points(page, "figure_1").count() == 4 * len(RESULTS)
    point = points(page, "figure_1").nth(12)
    model = point.get_attribute("aria-label").split("model: ")[1].split(";")[0]
    point.click(force=True)
    page.wait_for_function("document.getElementById('picked').textContent !== ''")
    assert model in page.locator("#picked").inner_text()
    rows = int((RESULTS["model"] == model).sum())
    for figure in ("figure_1", "figure_2", "losses"):
        drawn = points(page, figure).count()
        becomes(page, lambda: faint(page, figure), drawn - drawn // len(RESULTS) * rows)  # noqa: B023
    assert page.locator("tr.chosen").count() > 0
    page.locator("#picked button").click()
    becomes(page, lambda: faint(page, "figure_2"), 0)


def test_the_picked_model_links_to_its_row(opened):
    page, _ = opened
    page.locator("#rows ~ * tr[data-model='02x0128_03d01'] td").first.click()
    page.locator("#picked a").first.click()
    assert page.url.endswith("#row-02x0128_03d01@2")
    assert page.locator("tr:target").get_attribute("data-model") == "02x0128_03d01"
    page.locator("#picked button").click()


def test_a_filter_holds_for_every_figure_and_moves_its_r2(opened):
    page, _ = opened
    page.select_option("select[name=depth_is]", "4")
    kept = RESULTS[RESULTS["depth"] == 4]
    r2 = np.corrcoef(kept["nc4_agreement"], kept["val_loss"])[0, 1] ** 2
    page.locator("#drawing-figure_1 text", has_text=f"R² = {r2:.3f}, n = {len(kept)}").wait_for(state="attached")
    becomes(page, lambda: points(page, "figure_2").count() % len(kept), 0)
    page.select_option("select[name=depth_is]", "all")


def test_a_filter_that_matches_nothing_empties_the_panels_and_recovers(opened):
    page, _ = opened
    whole = points(page, "figure_1").count()
    model = "04x0256_03d"
    ours = f"n.getAttribute('aria-label').includes('model: {model};')"
    colours = f"nodes => nodes.filter(n => {ours}).map(n => n.getAttribute('fill'))"
    before = points(page, "figure_1").evaluate_all(colours)
    page.fill("input[name=model_like]", "zzz")
    becomes(page, lambda: points(page, "figure_1").count(), 0)
    page.fill("input[name=model_like]", model)
    becomes(page, lambda: points(page, "figure_1").count(), 4 * int((RESULTS["model"] == model).sum()))
    assert points(page, "figure_1").evaluate_all(colours) == before  # a size keeps its colour
    page.fill("input[name=model_like]", "")
    becomes(page, lambda: points(page, "figure_1").count(), whole)


EXPLORER = "#drawing-token_explorer"


def lists(page) -> list[list[str]]:
    """The tokens in the explorer's two lists: the chosen one with its nearest means, and those found."""
    texts = "[...group.parentNode.querySelectorAll(':scope > .mark-text text[text-anchor=start]')]"
    return page.locator(f"{EXPLORER} .mark-rect.role-mark").evaluate_all(
        f"groups => groups.map(group => {texts}.map(node => node.textContent))"
    )


def first_chosen(page) -> str:
    return next((tokens[0] for tokens in lists(page)[:1] if tokens), "")


def lines(page, which: int):
    """The lines of one of the explorer's two lists."""
    return page.locator(f"{EXPLORER} .mark-rect.role-mark").nth(which).locator("path")


def counts(page) -> str:
    texts = page.locator(f"{EXPLORER} text").all_text_contents()
    return next((text for text in texts if text.startswith("of ")), "")  # none while the figure is drawn anew


@pytest.fixture
def explorer(opened):
    """The page at its token explorer, nothing typed or chosen in it."""
    page, _ = opened
    page.evaluate("() => document.getElementById('token_explorer').scrollIntoView()")
    page.wait_for_selector(f"{EXPLORER}[data-drawn]")
    page.fill(f"{EXPLORER} input[name=token]", "")
    becomes(page, lambda: counts(page).endswith("found: 900"), True)
    return page


def test_a_typed_token_is_found_and_leads_to_its_nearest_means(explorer):
    tokens = made_tokens()
    visible = tokens["text"].str.replace(" ", "␣")
    explorer.fill(f"{EXPLORER} input[name=token]", "tim")
    becomes(explorer, lambda: lists(explorer), [["␣Tim", *visible[tokens.loc[1, "nearest_ids"]]], ["␣Tim"]])
    assert "20,000" in explorer.locator(f"{EXPLORER} text").all_text_contents()  # its count
    lines(explorer, 0).nth(2).click()
    # Not 6, whose text is the same.
    becomes(explorer, lambda: lists(explorer)[:1], [[visible[7], *visible[tokens.loc[7, "nearest_ids"]]]])
    lines(explorer, 1).first.click()
    becomes(explorer, lambda: first_chosen(explorer), "␣Tim")
    explorer.fill(f"{EXPLORER} input[name=token]", "</script><b>")  # typing lets go of what was clicked
    becomes(explorer, lambda: first_chosen(explorer), "</script><b>")


def test_a_search_lists_the_same_text_first_then_what_starts_with_it(explorer):
    tokens = made_tokens()
    find = tokens["text"].str.strip().str.lower()
    visible = tokens["text"].str.replace(" ", "␣")
    explorer.fill(f"{EXPLORER} input[name=token]", " AAF")
    becomes(explorer, lambda: lists(explorer)[1:], [visible[find == "aaf"].to_list()])
    explorer.fill(f"{EXPLORER} input[name=token]", "n")
    starts, holds = find.str.startswith("n"), find.str.contains("n")
    first = [*visible[starts], *visible[holds & ~starts]][:20]  # the table goes by frequency
    becomes(explorer, lambda: lists(explorer)[1:], [first])
    becomes(explorer, lambda: counts(explorer), f"of 900 tokens, drawn: 900, found: {holds.sum()}")
    explorer.fill(f"{EXPLORER} input[name=token]", "no such token")
    becomes(explorer, lambda: lists(explorer), [[], []])
    becomes(explorer, lambda: counts(explorer).endswith("found: 0"), True)


def test_axes_are_chosen_and_outlive_a_change_of_model(explorer):
    explorer.select_option(f"{EXPLORER} select[name=up]", label=TOKEN_COLUMNS["agreement"][0])
    drawn = int(made_tokens()["agreement"].notna().sum())
    becomes(explorer, lambda: counts(explorer), f"of 900 tokens, drawn: {drawn}, found: 900")
    circles = explorer.locator(f"{EXPLORER} .mark-symbol path[aria-roledescription=circle]")
    becomes(explorer, circles.count, drawn + 1)
    explorer.fill(f"{EXPLORER} input[name=token]", "anna")
    becomes(explorer, lambda: first_chosen(explorer), "␣Anna")
    explorer.select_option("select[data-switches=drawing-token_explorer]", label="Token explorer, 01x0064_03d@0")
    explorer.wait_for_function("[...document.querySelectorAll('text')].some(t => t.textContent.startsWith('of 300'))")
    becomes(explorer, lambda: first_chosen(explorer), "␣Anna")
    becomes(explorer, lambda: explorer.input_value(f"{EXPLORER} input[name=token]"), "anna")
    becomes(explorer, explorer.locator(f"{EXPLORER} text", has_text="↑ share of validation features").count, 1)


def test_the_choice_of_measurement_draws_another_figure(opened):
    page, _ = opened
    page.evaluate("() => document.getElementById('by_width').scrollIntoView()")
    page.wait_for_selector("#drawing-by_width[data-drawn]")
    page.select_option("select[data-switches=drawing-by_width]", "by_width_nc4_agreement")
    page.wait_for_function(
        "[...document.querySelectorAll('#drawing-by_width text')].some(t => t.textContent.includes('agreement'))"
    )


@pytest.mark.parametrize("name", ["n_params", "val_loss", "gnc2_log_uncentred_cov"])
def test_a_table_sorts_by_its_numbers(opened, name):
    """Groups of three, fractions, and a typographical minus are numbers; a second click turns the order round."""
    page, _ = opened
    table = page.locator("#rows ~ * table").first
    head = table.locator("th", has_text=name.replace("_", " ")).first
    column = head.evaluate("head => head.cellIndex")
    expected = [number_words(value) for value in sorted(RESULTS[name])]
    for order in (expected, expected[::-1]):
        head.click()
        assert table.locator(f"tbody td:nth-child({column + 1})").all_text_contents() == order


def test_it_is_readable_in_the_dark(browser, report):
    with new_page(browser, offline=True, dark=True) as (page, errors):
        page.goto(report.as_uri())
        page.evaluate("() => document.getElementById('figure_1').scrollIntoView()")
        page.wait_for_selector("#drawing-figure_1[data-drawn]")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(21, 24, 29)"
        said = page.locator("#drawing-figure_1 text", has_text="R² = ").first
        becomes(page, lambda: said.evaluate("node => node.getAttribute('fill')"), "#e8eaed")
        page.click("#ground")
        page.wait_for_function("document.documentElement.dataset.ground === 'light'")
        becomes(page, lambda: said.evaluate("node => node.getAttribute('fill')"), "#1f2328")
        assert errors == []


def test_a_figure_has_a_page_of_its_own(browser, report):
    with new_page(browser, offline=True) as (page, errors):
        page.goto((report.parent / "figures" / "figure_3.html").as_uri())
        page.wait_for_selector("#drawing-figure_3[data-drawn]")
        assert points(page, "figure_3").count() > 0
        assert errors == []


# No element that hides what is too wide for it has too much; no word of a figure lies outside of its picture.
CLIPPED = """() => [...document.querySelectorAll("main *, .bar *")]
    .filter(node => node instanceof HTMLElement && node.clientWidth
        && ["hidden", "clip"].includes(getComputedStyle(node).overflowX) && node.scrollWidth > node.clientWidth + 1)
    .map(node => `${node.tagName} ${node.textContent.slice(0, 40)}`)"""
OUTSIDE = """() => [...document.querySelectorAll("svg.marks")].flatMap(svg => {
    const frame = svg.getBoundingClientRect();
    return [...svg.querySelectorAll("text")].filter(node => { const box = node.getBoundingClientRect();
        return box.width && (box.left < frame.left - 1 || box.right > frame.right + 1
            || box.top < frame.top - 1 || box.bottom > frame.bottom + 1); })
        .map(node => `${svg.closest(".drawing").dataset.name}: ${node.textContent}`); })"""

# Of each axis, the labels that are seen and lie over one another.
CROWDED = """() => [...document.querySelectorAll("svg.marks .role-axis-label")].flatMap(axis => {
    const seen = [...axis.querySelectorAll("text")].filter(node => +node.getAttribute("opacity") !== 0
        && node.getBoundingClientRect().width).map(node => [node, node.getBoundingClientRect()]);
    return seen.filter(([_, a], i) => seen.slice(i + 1).some(([_, b]) => a.left < b.right - 1 && b.left < a.right - 1
            && a.top < b.bottom - 2 && b.top < a.bottom - 2))
        .map(([node]) => `${axis.closest(".drawing").dataset.name}: ${node.textContent}`); })"""
# Figures that are wider than their place, and so are cut by its edge.
CUT = """() => [...document.querySelectorAll(".drawing")].filter(node => node.scrollWidth > node.clientWidth + 1)
    .map(node => `${node.dataset.name}: ${node.scrollWidth} > ${node.clientWidth}`)"""


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    """The report of published rows alone."""
    words = f"published by Wu and Papyan (lc-2024_05_18.csv of 2024-05-18, sha256 {'0123456789ab'})"
    folder = tmp_path_factory.mktemp("published")
    settings = {"analysis": {"permutations": 99, "pictures": False}}
    write_analysis(RESULTS[COLUMNS].assign(origin=words), folder, title="Theirs", settings=settings)
    return folder / "report.html"


def draw_all(page) -> None:
    drawings = page.locator(".drawing")
    for number in range(drawings.count()):
        drawings.nth(number).scroll_into_view_if_needed()
        page.wait_for_function("i => document.querySelectorAll('.drawing')[i].dataset.drawn", arg=number)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("name", ["report", "published", "few"])
def test_nothing_is_wider_than_the_window_and_no_text_is_clipped(browser, request, name, dark):
    with new_page(browser, offline=True, dark=dark) as (page, errors):
        page.set_viewport_size({"width": 1440, "height": 900})
        page.goto(request.getfixturevalue(name).as_uri())
        draw_all(page)
        for width in (1440, 1000, 390):
            page.set_viewport_size({"width": width, "height": 900})
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.evaluate(CLIPPED) == []
            assert page.evaluate(OUTSIDE) == []
            assert page.evaluate(CROWDED) == []
            assert width < 1000 or page.evaluate(CUT) == []  # on a phone a figure scrolls in its place
        assert errors == []


@pytest.mark.parametrize("name", ["report", "published", "few"])
def test_on_paper_no_table_and_no_figure_is_cut(browser, request, name):
    sheet = 703  # CSS pixels of upright A4 across, less the margins
    with new_page(browser, offline=True) as (page, errors):
        page.goto(request.getfixturevalue(name).as_uri())
        draw_all(page)
        page.set_viewport_size({"width": sheet, "height": 1000})
        page.emulate_media(media="print")
        wide = f"all => all.map(node => node.getBoundingClientRect().right).filter(end => end > {sheet + 1})"
        assert page.locator("table, svg.marks, math").evaluate_all(wide) == []
        assert (
            page.locator(".scroll").evaluate_all("all => all.filter(n => n.scrollWidth > n.clientWidth + 1).length")
            == 0
        )
        high = "all => all.filter(node => node.getBoundingClientRect().height > 910).length"  # 240 mm
        assert page.locator(".drawing:not(.long) svg.marks").evaluate_all(high) == 0
        said = page.locator("#rows ~ * td").first.evaluate("cell => getComputedStyle(cell, '::before').content")
        assert "model" in said  # each value of a wide table bears its name
        assert page.pdf(prefer_css_page_size=True)[:5] == b"%PDF-"
        assert errors == []


# Of a long figure: the strips that it is printed in, as [top, height], and the panels of its picture, as [top, bottom].
STRIPS = """drawing => {
  const svg = drawing.querySelector("svg.marks"), shown = svg.getBoundingClientRect();
  const unit = svg.viewBox.baseVal.height / shown.height, at = (y) => (y - shown.top) * unit;
  const panels = [...svg.querySelectorAll("g[class*=_group]")].map(node => node.getBoundingClientRect());
  const strips = [...drawing.querySelectorAll(".sheets svg")].map(strip => strip.viewBox.baseVal);
  const ends = panels.map(box => [at(box.top), at(box.bottom)]);
  return [strips.map(box => [box.y, box.height]), ends, svg.viewBox.baseVal.height];
}"""


def test_a_long_figure_is_printed_in_whole_rows_of_panels(browser, few):
    with new_page(browser, offline=True) as (page, errors):
        page.goto(few.as_uri())
        draw_all(page)
        long = page.locator(".drawing.long")
        assert long.count() >= 1
        for drawing in long.all():
            strips, panels, height = drawing.evaluate(STRIPS)
            ends = [top + size for top, size in strips]
            assert [top for top, _ in strips] == [0, *ends[:-1]]  # each begins where the last one ends
            assert ends[-1] == pytest.approx(height)
            assert len(strips) > 1
            assert len(panels) >= len(strips)
            for end in ends[:-1]:
                assert not [panel for panel in panels if panel[0] < end < panel[1]]
            assert not drawing.locator(".sheets").is_visible()
        page.set_viewport_size({"width": 703, "height": 1000})
        page.emulate_media(media="print")
        sizes = page.locator(".sheets svg").evaluate_all("all => all.map(n => n.getBoundingClientRect().height)")
        assert all(0 < size < 910 for size in sizes)
        assert page.locator(".long svg.marks").evaluate_all("all => all.filter(n => n.clientHeight > 0).length") == 0
        whole = "all => all.every(n => getComputedStyle(n).display === 'block')"  # what is inline is cut anywhere
        assert long.evaluate_all(whole)
        assert errors == []


def test_the_print_button_draws_every_figure_in_light_first(browser, few):
    with new_page(browser, offline=True, dark=True) as (page, errors):
        every = "[...document.querySelectorAll('.drawing')].every(node => node.dataset.drawn)"
        page.add_init_script(f"window.print = () => {{ window.printed = {every}; }}")
        page.goto(few.as_uri())
        page.click("#print")
        page.wait_for_function("window.printed === true")
        assert page.evaluate("document.documentElement.dataset.ground") == "light"
        assert errors == []


def test_a_name_in_a_table_leads_to_its_definition(opened):
    page, _ = opened
    page.locator("#table-of-correlations a[href='#definition-nc4_agreement']").first.click()
    assert page.locator("article:target math").count() == 1
    assert page.locator("article:target").is_visible()


@pytest.fixture(scope="module")
def few(tmp_path_factory) -> Path:
    """The report of a few models: long names, revisions, a fine-tuned one beside its base, a failure, a warning."""
    long = "somebody-some-model-410m-deduped-of-some-day"
    results = made_models(
        base={},
        tuned={"base": "base", "note": "validation loss 11.2 is above the unigram entropy 7.1: wrong tokenizer?"},
        **{
            long: {"family": "gpt_neox", "revisions": [("step1000", 1000), ("step3000", 3000), ("step143000", 143_000)]}
        },
    )
    tuned = made_tokens(300).assign(cdnv=lambda t: t["cdnv"] * np.exp(np.sin(t["token_id"])))
    folder = tmp_path_factory.mktemp("few")
    write_analysis(
        results, folder, title="Few", settings={"analysis": {"pictures": False}},
        tokens={"base@0": made_tokens(300), "tuned@0": tuned},
        sensitivity=made_sensitivity(results), published=RESULTS, failures={"other@0": "cannot be loaded"},
    )  # fmt: skip
    return folder / "report.html"


@pytest.mark.parametrize(("width", "dark"), [(420, False), (900, True), (1440, False)])
def test_a_report_of_few_models_is_drawn_whole(browser, few, width, dark):
    with new_page(browser, offline=True, dark=dark) as (page, errors):
        page.set_viewport_size({"width": width, "height": 900})
        page.goto(few.as_uri())
        drawings = page.locator(".drawing")
        names = [drawings.nth(i).get_attribute("data-name") for i in range(drawings.count())]
        assert {"strips", "moved_tokens", "trajectories", "against_loss", "overlaid"} < set(names)
        for name in names:
            page.evaluate("name => document.getElementById('drawing-' + name).scrollIntoView()", name)
            page.wait_for_selector(f"#drawing-{name}[data-drawn]")
        words = page.locator("#drawing-strips text").all_text_contents()
        assert {"base", "tuned", "published"} <= set(words)
        assert any(word.startswith("somebody") and word.endswith("day") for word in words)
        # No word of a figure lies outside of its picture.
        outside = """svg => { const frame = svg.getBoundingClientRect();
            return [...svg.querySelectorAll('text')].filter(node => { const box = node.getBoundingClientRect();
                return box.width && (box.left < frame.left - 1 || box.right > frame.right + 1); })
                .map(node => node.textContent); }"""
        for name in names:
            assert page.locator(f"#drawing-{name} svg.marks").evaluate(outside) == [], name
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert errors == []


def test_a_model_picked_in_a_strip_is_picked_everywhere(browser, few):
    with new_page(browser, offline=True) as (page, errors):
        page.goto(few.as_uri())
        for name in ("against_loss", "strips"):
            page.evaluate("name => document.getElementById(name).scrollIntoView()", name)
            page.wait_for_selector(f"#drawing-{name}[data-drawn]")
        page.locator("#drawing-strips path[aria-label*='model: tuned']").first.click(force=True)
        page.wait_for_function("document.getElementById('picked').textContent.includes('tuned')")
        drawn = page.locator("#drawing-against_loss .mark-symbol path[aria-label*='model: base']")
        becomes(page, lambda: drawn.evaluate_all(FAINT) == drawn.count() > 0, True)
        assert errors == []
