"Settings are numbers where they are written in digits, and names stay text."
import math

import pytest

from mmtmerge.core import UserError, root
from mmtmerge.corpus.hub import HubCorpus
from mmtmerge.metrics import in_script
from mmtmerge.settings import check_script, load, nested, number, profiles, sections, value


LOOKALIKES = ["nan", "NaN", "no", "1_0", "0x1f", "0b1", "1j", "infinity", "yes", "on", "e5", "1e", "٣"]


@pytest.mark.parametrize("text", LOOKALIKES)
def test_names_that_look_like_numbers(text):
    assert value(text) == text
    assert value(f"{text} hi") == f"{text} hi"


@pytest.mark.parametrize(
    "text, expected",
    [("42", 42), ("-1", -1), ("+2", 2), (".25", .25), ("3.", 3.), ("5e-5", 5e-5), ("1E3", 1e3), ("-inf", -math.inf),
     ("True", True), ("None", None), ("'mmtmerge[gemma]'", "mmtmerge[gemma]"), ("[1,2]", [1, 2])],
)
def test_numbers_stay_numbers(text, expected):
    found = number(text)
    assert found == expected and type(found) is type(expected)


@pytest.mark.parametrize("key", ["column", "id", "train_columns", "train_revision", "split.dev", "repo", "languages"])
def test_names_may_be_digits(key):
    for text in ("1234567", "0 1", "nan", "None"):
        found = nested([(key, text)])
        for part in key.split("."):
            found = found[part]
        assert found == text


@pytest.fixture
def project(tmp_path, monkeypatch):
    "Min Nan Chinese besides the languages of the study, in columns called by digits."
    text = (root() / "settings.ini").read_text()
    language = "[language nan]\nname = Min Nan\nscript = Latin\nflores = nan_Latn\n"
    text = text.replace("[language te]", f"{language}[language te]", 1)
    profile = "[profile smoke]\nlanguages = "
    text = text.replace(f"{profile}hi ta", f"{profile}nan\ntrain_pairs.nan = 8", 1)
    text = text.replace("languages = hi bn ta te\ntrain =", "languages = nan\ntrain =", 1)
    text = text.replace("train_columns = src tgt", "train_columns = 0 1", 1)
    text = text.replace("id = id\ncolumn = text", "id = 0\ncolumn = nan", 1)
    (tmp_path / "settings.ini").write_text(text)
    (tmp_path / "nbs").mkdir()
    monkeypatch.setenv("MMTMERGE_ROOT", str(tmp_path))


def test_a_language_called_nan(project):
    study, corpus = load("smoke"), HubCorpus.open("samanantar")
    assert study.languages == ["nan"] and study.p.train_pairs["nan"] == 8
    assert corpus.languages() == ["nan"] and corpus.spec["train_columns"].split() == ["0", "1"]
    assert (corpus.testsets["dev"]["id"], corpus.testsets["dev"]["column"]) == ("0", "nan")


def test_every_profile_of_the_study_keeps_its_numbers():
    for name in profiles():
        for key, text in sections().items(f"profile {name}"):
            if text.isdigit():
                assert value(text) == int(text), key


SCRIPTS = dict(Odia="Oriya", Bangla="Bengali", Hanzi="CJK", Cyrilic="Cyrillic", Gurmuki="Gurmukhi")


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_that_unicode_does_not_name(tmp_path, monkeypatch, script):
    text = (root() / "settings.ini").read_text()
    (tmp_path / "settings.ini").write_text(text.replace("script = Tamil", f"script = {script}", 1))
    (tmp_path / "nbs").mkdir()
    monkeypatch.setenv("MMTMERGE_ROOT", str(tmp_path))
    with pytest.raises(UserError, match=f"language ta.*{script}.*did you mean '{SCRIPTS[script]}'"):
        load("smoke")


@pytest.mark.parametrize("script", ["Oriya", "cjk", "Meetei Mayek", "Ol Chiki", "Hangul", "Ethiopic", "Kannada"])
def test_scripts_that_unicode_names(script):
    check_script(script, "xx")


def test_a_script_that_is_accepted_has_letters():
    for language in load("laptop").known.values():
        assert in_script(dict(en="a", hi="क", bn="ক", ta="க", te="క")[language.code], language.script) == 1


@pytest.mark.parametrize(
    "old, new, said",
    [
        ("[profile smoke]\n", "[profile smoke]\ntest_linse = 3\n", "did you mean 'test_lines'"),
        ("[profile smoke]\n", "[profile smoke]\nseed = x\n", "seed = 'x' is no number"),
        ("[profile smoke]\n", "[profile smoke]\nbatch_size = 0\n", "batch_size = 0: it must be at least 1"),
        ("[profile smoke]\n", "[profile smoke]\nadam_eps = -1e-5\n", "adam_eps = -1e-05: it must be at least 0"),
        ("[profile smoke]\n", "[profile smoke]\nsnapshots = .5 1\n", "snapshots = 1: it must be between 0 and 1"),
        ("train_pairs.hi = 96", "train_pairs.hi = -4", "train_pairs = -4: it must be at least 1"),
        ("[profile smoke]\n", "[profile ]\n", "needs a name of one word"),
        ("[profile smoke]\n", "[profile my smoke]\n", "needs a name of one word"),
        ("[groups]\n", "[gruops]\n", "NoSectionError"),
        ("[study]\n", "[studdy]\n", "KeyError"),
        ("pivot = en", "pivto = en", "KeyError"),
        ("repair_whole = en-indic all", "repair_whole = 5", "AttributeError"),
        ("name = Hindi", "nmae = Hindi", "TypeError"),
    ],
)
def test_what_is_wrong_names_the_file(tmp_path, monkeypatch, old, new, said):
    text = (root() / "settings.ini").read_text(encoding="utf-8")
    assert old in text
    (tmp_path / "settings.ini").write_text(text.replace(old, new, 1), encoding="utf-8")
    (tmp_path / "nbs").mkdir()
    monkeypatch.setenv("MMTMERGE_ROOT", str(tmp_path))
    with pytest.raises(UserError, match="settings.ini.*") as error:
        load("smoke")
    assert said in str(error.value)


@pytest.mark.parametrize("encoding, read", [("utf-8-sig", True), ("utf-16", False)])
def test_encodings_of_the_settings(tmp_path, monkeypatch, encoding, read):
    text = (root() / "settings.ini").read_text(encoding="utf-8")
    (tmp_path / "settings.ini").write_text(text, encoding=encoding)
    (tmp_path / "nbs").mkdir()
    monkeypatch.setenv("MMTMERGE_ROOT", str(tmp_path))
    if read:
        assert load("smoke").profile == "smoke"
        return
    with pytest.raises(UserError, match="settings.ini: 'utf-8' codec"):
        load("smoke")
