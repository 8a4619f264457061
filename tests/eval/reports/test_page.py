from PIL import Image

from eval.reports.page import (
    MAX_CARDS,
    Bar,
    Card,
    Report,
    Section,
    absent,
    flat_settings,
    parts_of,
    write_report,
)


def written(folder, *sections, **settings):
    """The page and its Markdown."""
    page = write_report(Report("Title", "Lead.", sections, settings), folder)
    return page.read_text(), (folder / "report.md").read_text()


def test_a_table_is_in_both_and_its_bars_in_the_page_alone(tmp_path):
    rows = [("a | b", Bar(0.25, 0.5), "<i>"), ("c", "", "d")]
    page, text = written(
        tmp_path, Section("Table", header=("x", "y", "z"), rows=rows, note="Note.")
    )
    assert 'style="width:25.0%"' in page and 'style="left:50.0%"' in page
    assert "&lt;i&gt;" in page and "Note." in page
    assert "| x | z |" in text and "| a \\| b | &lt;i> |" in text and "Note." in text


def test_failures_come_first_and_only_so_many_cards_are_shown(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    shown = [(tmp_path / "a.png", "caption")]
    cards = [Card(f"right {i}", shown, True) for i in range(MAX_CARDS)]
    cards += [Card("wrong", shown, False, "why"), Card("open", shown)]
    page, text = written(tmp_path, Section("Cards", cards=cards))
    assert page.index("<b>wrong</b>") < page.index("<b>right 0</b>")
    assert page.count("<figure>") == MAX_CARDS and "<b>open</b>" not in page
    assert "![caption](<a.png>)" in text and text.index("**wrong** ✗ why") < text.index("right 0")


def test_settings_stand_at_the_end_flat_and_without_what_is_none(tmp_path):
    page, text = written(tmp_path, Section("One"), packages={"torch": "2.13"}, seed=0, gone=None)
    assert "| packages.torch | 2.13 |" in text and "| seed | 0 |" in text and "gone" not in text
    assert page.index("One") < page.index("What the numbers depend on")
    assert flat_settings({"a": {"b": {"c": 1}}}) == {"a.b.c": "1"}


def test_a_report_becomes_a_section_with_parts(tmp_path):
    inner = Report("Inner", "About.", [Section("First")], {"seed": 3})
    page, text = written(tmp_path, *parts_of(inner), absent("Other", "result", "other/"))
    assert "## Inner\n\nAbout.\n\n### First" in text
    assert "seed: 3" in page and "<details>" in page
    assert "Left out: this run has no result (other/)." in text


def test_a_long_page_has_links_to_its_sections(tmp_path):
    sections = [Section(f"Part {number}") for number in range(5)]
    page, _ = written(tmp_path, *sections)
    assert page.count('<a href="#section-') == 5 and 'id="section-4"' in page
    assert "<nav>" not in written(tmp_path, Section("Alone"))[0]
