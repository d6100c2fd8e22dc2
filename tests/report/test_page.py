"The report's page: one file, whole sentences, sections that studies bring."
import re
import shutil

import pytest

from mmtmerge.core import root
from mmtmerge.report import page
from mmtmerge.report.quoted import Quoted
from mmtmerge.settings import load

HERE = root()
laptop = pytest.mark.skipif(not (HERE / "outputs/laptop/numbers.json").exists(), reason="the laptop study is not here")


@pytest.fixture(scope="module")
def shown():
    return page.report_page(load("laptop"))


@laptop
def test_the_page_needs_no_other_file_and_no_network(shown):
    assert not re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="(?!data:)', shown)
    assert not re.search(r"url\((?!data:)|@import", re.sub(r'"data:[^"]*"', "", shown))


@laptop
def test_no_missing_value_is_printed(shown):
    bare = re.sub(r"<style>.*?</style>|<script>.*?</script>|<[^>]+>", " ", shown, flags=re.S)
    assert not re.search(r"\b(NaN|nan|None)\b", bare)
    assert "…" not in bare


@laptop
def test_every_table_and_every_claim_is_there(shown):
    assert all(f"Table {number}." in shown for number in range(1, 8))
    assert len(re.findall(r'<tr class="(?:holds|does-not-hold|cannot-tell|not-tested)">', shown)) == 39


@laptop
def test_links_lead_to_files(shown):
    local = re.findall(r'<a href="(?!https?:|#)([^"]+)"', shown)
    assert [name for name in local if not (HERE / "outputs/laptop" / name).exists()] == []


def test_a_study_without_results_says_how_to_make_them(tmp_path, monkeypatch):
    shutil.copy(HERE / "settings.ini", tmp_path)
    monkeypatch.setenv("MMTMERGE_ROOT", str(tmp_path))
    text = page.report_page(load("smoke"))
    assert "mmtmerge rebuild mountdoom --profile smoke" in text
    assert "Its numbers claim nothing" in text


def test_a_new_study_brings_its_section_and_changes_no_file(tmp_path, monkeypatch):
    "A module in a folder of sections, a template in a folder of templates."
    import mmtmerge.report.sections as package
    shutil.copy(HERE / "settings.ini", tmp_path)
    monkeypatch.setenv("MMTMERGE_ROOT", str(tmp_path))
    (tmp_path / "brought.py").write_text(
        "from mmtmerge.report.page import Section\n"
        "SECTION = Section('Brought', 'brought', ('tables/frontier.csv',), lambda quoted: dict(found=7), place=1)\n")
    templates = tmp_path / "templates"
    shutil.copytree(page.templates_folder(), templates)
    (templates / "brought.html.jinja").write_text("<p>Found: {{ found }} & more</p>{{ image('frontier') }}")
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    monkeypatch.setattr(page, "templates_folder", lambda: templates)
    study = load("smoke")
    study.tables.mkdir(parents=True)
    (study.tables / "frontier.csv").write_text("a\n1\n")
    first = page.sections()[0]
    assert first.title == "Brought"
    assert "Found: 7" in page.body_of(first, Quoted(study))
    assert page.report_page(study).index("Found: 7") < page.report_page(study).index("mmtmerge rebuild mountdoom")
