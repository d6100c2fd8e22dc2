"Settings are numbers where they are written in digits, and names stay text."
import math

import pytest

from mmtmerge.core import UserError, root
from mmtmerge.corpus.hub import HubCorpus
from mmtmerge.metrics import in_script
from mmtmerge.settings import (
    CHOICES,
    CODES,
    beginnings,
    belongs,
    check_script,
    load,
    nested,
    number,
    profiles,
    sections,
    value,
)


LOOKALIKES = ["nan", "NaN", "no", "1_0", "0x1f", "0b1", "1j", "infinity", "yes", "on", "e5", "1e", "٣"]


@pytest.mark.parametrize("text", LOOKALIKES)
def test_names_that_look_like_numbers(text):
    assert value(text) == text
    assert value(f"{text} hi") == f"{text} hi"


@pytest.mark.parametrize(
    "text, expected",
    [("42", 42), ("-1", -1), ("+2", 2), (".25", .25), ("3.", 3.), ("010", 10), ("5e-5", 5e-5), ("1E3", 1e3),
     ("-inf", -math.inf), ("True", True), ("None", None), ("'mmtmerge[gemma]'", "mmtmerge[gemma]"), ("[1,2]", [1, 2])],
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


WRONG_SCRIPTS = {
    "Hindi": "language.*did you mean 'Devanagari'", "Punjabi": "language.*did you mean 'Gurmukhi'",
    "Simplified Chinese": "did you mean 'CJK'", "hin_Deva": "did you mean 'Devanagari'", "Ge'ez": "'Ethiopic'",
    "Latin, Cyrillic": "did you mean 'Latin Cyrillic'", "Perso-Arabic": "did you mean 'Arabic'",
    "Berber": "language.*did you mean 'Tifinagh'", "Chinese": "language.*did you mean 'CJK'",
    "CJK UNIFIED": "'UNIFIED' is no script", "Latin Small": "'Small' is no script", "Old": "'Old' is no script",
    "Fullwidth": "write the script", "Modifier": "write the script", "Mathematical": "write the script",
    "Arabic Letter": "'Letter' is no script", "Zzzz": "write the script", " ": "it is empty",
}


@pytest.mark.parametrize("script", WRONG_SCRIPTS)
def test_what_is_no_script_is_refused(script):
    with pytest.raises(UserError, match=rf"\[language xx\]: script = {script}: .*{WRONG_SCRIPTS[script]}"):
        check_script(script, "xx")


@pytest.mark.parametrize(
    "script, noted",
    [("Jpan", "Japanese"), ("Kore", "Korean"), ("Hans", "CJK"), ("Hant", "CJK"), ("Hira", "Hiragana"),
     ("deva", "Devanagari"), ("Kana", "Katakana"), ("Beng", "Bengali"), ("Han", "CJK"), ("Meetei", "Meetei Mayek"),
     ("Tale", "Tai Le"),
     ("Hira Kana Hani", "Hiragana Katakana CJK"), ("Cyrl Latn", "Cyrillic Latin"), ("Latin latn", "Latin")],
)
def test_codes_and_several_scripts(script, noted):
    assert check_script(script, "xx") == noted


def test_the_studys_scripts_have_the_letters_that_they_had():
    for language in load("laptop").known.values():
        own = beginnings(language.script)
        assert own[0] == language.script.upper() + " " and (len(own) == 1 or language.script == "Latin")


OF_LATIN = ["Faylni oʻqing", "Toʻgʻri", "ʻŌlelo Hawaiʻi", "2ª janela nº 1", "xʰ", "nⁱ"]


OF_OTHERS = [("обʼєкт", "Cyrillic"), ("µε", "Greek")]


@pytest.mark.parametrize("text, script", [*((text, "Latin") for text in OF_LATIN), *OF_OTHERS])
def test_letters_of_no_script_count_for_none(text, script):
    assert in_script(text, script) == 1 and in_script(text, "Thai") == 0
    assert math.isnan(in_script("ʻʼµ", script))


def test_unicode_has_the_same_scripts():
    "Names of Latin letters that begin otherwise are left as results were made with them."
    regex = pytest.importorskip("regex")
    letters = "".join(chr(i) for i in range(0x110000) if chr(i).isalpha())
    found = 0
    for code in CODES:
        try:
            of_it = regex.findall(rf"\p{{Script={code}}}", letters)
        except regex.error:     # a variant, or several scripts
            continue
        own = sum(belongs(letter, code) for letter in of_it)
        assert own / len(of_it) >= dict(Latn=.8, Grek=.98, Tang=.1).get(code, 1), code
        found += 1
    assert found > 150


@pytest.mark.parametrize(
    "text, script",
    [("コンピューター", "Katakana"), ("らーめん", "Hiragana"), ("人々〆", "CJK"),
     ("请打开ＡＢＣ", "CJK"), ("ｱｶｳﾝﾄ", "Japanese"),
     ("新しいウィンドウでファイルを開く", "Japanese"), ("大韓民國의 한글 ㅋㅋ", "Korean"), ("𛀂か", "Hiragana")],
)
def test_letters_that_are_named_otherwise(text, script):
    assert in_script(text, script) == 1 and in_script(text, "Thai") == 0


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
        ("train_pairs.hi = 96", "train_pairs.hi = -4", "train_pairs.hi = -4: it must be at least 1"),
        ("[profile smoke]\n", "[profile ]\n", "needs a name of one word"),
        ("[profile smoke]\n", "[profile my smoke]\n", "needs a name of one word"),
        ("[groups]\n", "[gruops]\n", "NoSectionError"),
        ("[study]\n", "[studdy]\n", "KeyError"),
        ("pivot = en", "pivto = en", "KeyError"),
        ("repair_whole = en-indic all", "repair_whole = 5", "unknown group '5'"),
        ("name = Hindi", "nmae = Hindi", "did you mean 'name'"),
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


def project_with(tmp_path, monkeypatch, *replaced):
    text = (root() / "settings.ini").read_text(encoding="utf-8")
    for old, new in replaced:
        assert old in text
        text = text.replace(old, new, 1)
    (tmp_path / "settings.ini").write_text(text, encoding="utf-8")
    (tmp_path / "nbs").mkdir()
    monkeypatch.setenv("MMTMERGE_ROOT", str(tmp_path))


VALUES = """batch_size = True|batch_size = None|batch_size = inf|batch_size = 1.5|batch_size = 1 2|batch_size =
    batch_size = 0x10|adam_betas = 2 3|adam_betas = .9
    adam_betas = .9 .99 .999|adam_eps = 1e999|engine = none|dtype = 32|selects = test
    grid_engine = ctranslate2|scheduler = cosin|neuron_rule = dead|snapshots = .5, .25|snapshots =|max_words = none
    min_words = 9|keep = 0|seed = 1.5|seed = 99999999999|batch_size.x = 5|weight_decay = off|threads = 2 ; two
    base = miniatur|corpus =|evaluations = 0|repair_lams = .1 x|repair_ranks = 1.5|repair_trained = en-hi, en-ta
    probe_merges = ties ties|train_pairs.hii = 5|new_token_ratio = three|epochs = 1.5"""
VALUES = [line.strip() for line in VALUES.replace("\n", "|").split("|")]


@pytest.mark.parametrize("section", ["profile", "profile smoke"])
@pytest.mark.parametrize("line", VALUES)
def test_values_that_a_setting_may_not_have(tmp_path, monkeypatch, section, line):
    "In the defaults as in a profile: the key is named, with what is right."
    key = line.partition(" =")[0]
    text = (root() / "settings.ini").read_text(encoding="utf-8")
    head, _, rest = text.partition(f"[{section}]\n")
    own, end, rest = rest.partition("\n[")
    kept = [x for x in own.split("\n") if x.partition(" =")[0] != key]
    new = head + "\n".join([f"[{section}]", line, *kept]) + end + rest
    project_with(tmp_path, monkeypatch, (text, new))
    with pytest.raises(UserError, match="settings.ini.*" + key.partition(".")[0]) as error:
        load("smoke")
    assert not any(kind in str(error.value) for kind in ("TypeError", "ValueError", "AttributeError", "KeyError"))


@pytest.mark.parametrize(
    "line, found",
    [("batch_size = 1e3", 1000), ("batch_size = 010", 10), ("batch_size = 8.0", 8), ("repair_lams = 0", [0]),
     ("max_words = 0", 0), ("repair_whole =", []), ("scheduler = cosine", "cosine"), ("adam_betas = 0 .5", [0, .5])],
)
def test_values_that_mean_the_same(tmp_path, monkeypatch, line, found):
    project_with(tmp_path, monkeypatch, ("repair_lams = .5\n", ""), ("[profile smoke]\n", f"[profile smoke]\n{line}\n"))
    value = getattr(load("smoke").p, line.partition(" =")[0])
    assert value == found and type(value) is type(found)


@pytest.mark.parametrize(
    "old, new, said",
    [
        ("rungs = 4 8", "rungs = 4,8", "rungs = '4,8' is no number: .* spaces between"),
        ("rungs = 4 8", "rungs = 8 4", "rungs = 8 4: each must be above"),
        ("train_pairs.hi = 96", "train_pairs.hi = all", "train_pairs.hi = 'all' is no number"),
        ("train_pairs.hi = 96", "train_pairs = 5", "write one or the other"),
        ("ties.K = .4 .5 .6 .7 .8 .9", "ties.K = .4, .5, .6", r"\[grid paper\]: ties.K = .4, .5, .6: write numbers"),
        ("ties.K = .4 .5 .6 .7 .8 .9", "ties = .4", "METHOD.PARAMETER"),
        ("methods = task_arithmetic ties dare sce", "methods = dare, ties", r"\[study\]: methods = dare, ties: write"),
        ("methods = task_arithmetic ties dare sce", "methods = task_arithmetik", "did you mean 'task_arithmetic'"),
        ("methods = task_arithmetic ties dare sce", "methods = ties", r"probe_merges = .*`methods` in \[study\]"),
        ("languages = hi ta\n", "languages = hi hi\n", "'hi' is named twice"),
        ("languages = hi ta\n", "languages = en hi\n", "beside the pivot"),
        ("languages = hi ta\n", "languages = hi, ta\n", "without commas"),
        ("languages = hi ta\n", "languages =\n", "name one or more"),
        ("name = Hindi", "name =", r"\[language hi\]: name is missing or empty"),
        ("name = Hindi", "name = English", "have one name"),
        ("name = Hindi", "name = Hindi ; the language", "comments stand on lines of their own"),
        ("Translate the", "Translate {the}", "{the} stands for nothing"),
        ("Translate the", "Translate { the", r"\[study\]: prompt"),
        ("pivot = en", "pivot = eng", r"\[study\]: pivot = eng: unknown language"),
    ],
)
def test_words_of_the_study(tmp_path, monkeypatch, old, new, said):
    project_with(tmp_path, monkeypatch, (old, new))
    with pytest.raises(UserError, match="settings.ini.*" + said):
        load("smoke")


def test_a_setting_that_users_add_has_the_kind_of_its_default(tmp_path, monkeypatch):
    mine = "[profile]\nmy_lines = 5\nmy_lams = .1 .2\nmy_word = a\n"
    smoke = "[profile smoke]\nmy_lams = 1\nmy_word = 5\n"
    project_with(tmp_path, monkeypatch, ("[profile]\n", mine), ("[profile smoke]\n", smoke))
    p = load("smoke").p
    assert (p.my_lines, p.my_lams, p.my_word) == (5, 1, "5")
    path = tmp_path / "settings.ini"
    path.write_text(path.read_text(encoding="utf-8").replace("my_lams = 1\n", "my_lines = x\n"), encoding="utf-8")
    with pytest.raises(UserError, match="my_lines = 'x' is no number"):
        load("smoke")


def test_choices_are_those_of_the_code():
    from transformers import SchedulerType

    from mmtmerge.engines import ENGINES
    from mmtmerge.probe.neurons import RULES
    from mmtmerge.study.cost import BYTES

    assert {"transformers", "ctranslate2", "vllm"} <= {*ENGINES} and {*CHOICES["engine"]} <= {*ENGINES}
    assert CHOICES["neuron_rule"] == RULES and CHOICES["dtype"] == tuple(BYTES)
    assert {*CHOICES["scheduler"]} <= {kind.value for kind in SchedulerType}


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
