"`mmtmerge language add`: what it writes, and what it refuses before anything is written."
import json
import re

import pytest

from conftest import REPO, mmtmerge
from mmtmerge.core import UserError
from mmtmerge.corpus import adding
from mmtmerge.corpus.embedded import Corpus
from mmtmerge.metrics import in_script
from mmtmerge.settings import load
from mmtmerge.study import rebuild

LINES = [
    ("Open the file", "ಕಡತವನ್ನು ತೆರೆಯಿರಿ"),
    ("Close the window", "ಅದನ್ನು ಮುಚ್ಚಿ"),
    ("Save it all", ""),
    ("A new file", "ಹೊಸ ಕಡತ"),
]
NUMBERS = dict.fromkeys(("train", "dev", "devtest"), [("Open the file", "123")] * 3)


def table(path, lines=LINES, header="en\tkn"):
    path.write_text("\n".join([header, *("\t".join(line) for line in lines)]) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def project(tmp_path, monkeypatch):
    "A project without notebooks, and three files of a user."
    (tmp_path / "nbs").mkdir()
    (tmp_path / "settings.ini").write_text((REPO / "settings.ini").read_text(encoding="utf-8"), encoding="utf-8")
    for kind, word in (("train", ""), ("dev", " now"), ("devtest", " here")):
        table(tmp_path / f"{kind}.tsv", [(f"{source}{word}", target) for source, target in LINES])
    monkeypatch.setenv("MMTMERGE_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def planned(**more):
    files = {kind: f"{kind}.tsv" for kind in ("train", "dev", "devtest")}
    return adding.plan_language("kn", "Kannada", **files | more)


def test_a_language_is_written_and_loads(project):
    adding.write_language(planned())
    study = load("kannada")
    assert study.directions == ["kn-en", "en-kn"] and study.language("kn").script == "Kannada"
    assert study.p.repair_trained == ["en-kn"], "not those of the other profile's languages"
    lines = Corpus.open(study.p.corpus).test("dev", "en-kn", study.p.eval_pairs)
    assert sorted(lines.id) == ["2", "3", "5"] and "" not in set(lines.target)
    assert load("laptop").directions == load("laptop").directions[:8], "other profiles are as they were"


def test_beside_other_languages_each_uses_its_own_lines(project):
    corpus = project / "both"
    corpus.mkdir()
    table(corpus / "train.en-hi.tsv", [("Open the file", "फ़ाइल खोलें")], "en\thi")
    for split in ("dev", "devtest"):
        table(corpus / f"{split}.tsv", [("1", "Open the file", "फ़ाइल खोलें")], "id\ten\thi")
    before = {p.name: p.read_bytes() for p in corpus.iterdir()}
    adding.write_language(planned(folder=corpus))
    assert {name: (corpus / name).read_bytes() for name in before} == before
    both = Corpus.open(corpus)
    assert both.languages() == ["hi", "kn"]
    assert len(both.test("dev", "hi-en")) == 1 and len(both.test("dev", "kn-en")) == 3
    texts = list(both.texts())
    assert len(texts) == 2 * (1 + 3 + 1 + 3 + 1 + 3) and "ಹೊಸ ಕಡತ" in texts


@pytest.mark.parametrize(
    "made, more, said",
    [
        ({}, dict(script="Kanada"), "--script Kanada: 'Kanada' is no script's name"),
        ({}, dict(script="Tamil"), "of the letters are Kannada"),
        ({}, dict(like="lap"), "did you mean 'laptop'"),
        ({}, dict(profile="smoke"), "has a profile 'smoke' already"),
        ({}, dict(train="none.tsv"), "none.tsv is no file that ends in"),
        (dict(train=[("Open", "ತೆರೆ", "x")]), {}, "train.tsv, line 2: 3 columns where the header has 2"),
        (dict(dev=[("", "ತೆರೆ")]), {}, "dev.tsv, line 2: 'en' is empty"),
        (dict(dev=[("Open the file", ""), ("Close it", "")]), {}, "dev.tsv holds no line with both en and kn"),
        (dict(dev=[("one two three four five six seven", "ತೆರೆ")] * 9), {}, "dev has 0 lines of 3 to 6 words"),
        (NUMBERS, {}, "hold no letters"),
    ],
)
def test_refused_before_anything_is_written(project, made, more, said):
    for kind, lines in made.items():
        table(project / f"{kind}.tsv", lines)
    before = sorted(p.name for p in project.iterdir())
    with pytest.raises(UserError, match=said):
        planned(**more)
    assert sorted(p.name for p in project.iterdir()) == before


def test_the_command_shows_writes_and_refuses_a_second_time(project):
    words = ["language", "add", "kn", "--name", "Kannada"]
    for kind in ("train", "dev", "devtest"):
        words += [f"--{kind}", f"{kind}.tsv"]
    shown = mmtmerge(project, *words, "--dry-run")
    assert shown.returncode == 0 and "[language kn]" in shown.stdout and "nothing was written" in shown.stdout
    assert not (project / "corpus-kn").exists()
    assert "lines without a translation, which are left out: 1" in shown.stdout
    assert mmtmerge(project, *words).returncode == 0
    again = mmtmerge(project, *words)
    assert again.returncode == 2 and "[language kn] already" in again.stderr and "Traceback" not in again.stderr


@pytest.mark.parametrize(
    "code, name, more, said",
    [
        ("kn-x", "Kannada", {}, "code 'kn-x': write letters"),
        ("kn", "", {}, "--name ''"),
        ("kn", "Kan\n[study]", {}, "on one line"),
        ("kn", "{0} Kannada", {}, "without {}"),
        ("kn", "Hindi", {}, "calls 'hi' so"),
        ("kn", "Kannada", dict(profile="my profile"), "write one word"),
        ("kn", "Kannada", dict(profile="../../evil"), "write one word"),
        ("kn", "Kannada", dict(folder="embedded"), "is the name of a corpus"),
        ("kn", "Kannada", dict(folder="samanantar"), "is the name of a corpus"),
        ("kn", "Kannada", dict(dev="train.tsv", devtest="train.tsv"), "has only sentences of"),
    ],
)
def test_names_that_would_break_the_settings(project, code, name, more, said):
    before = (project / "settings.ini").read_bytes()
    for kind in ("train", "dev", "devtest"):
        file = project / f"{kind}.tsv"
        file.write_text(file.read_text().replace("en\tkn", f"en\t{code}"))
    files = {kind: f"{kind}.tsv" for kind in ("train", "dev", "devtest")}
    with pytest.raises(UserError, match=re.escape(said)):
        adding.plan_language(code, name, **files | more)
    assert (project / "settings.ini").read_bytes() == before


def test_what_a_table_cannot_keep_is_found_by_the_dry_run(project):
    table(project / "dev.tsv", [("7", "Open it now", "ತೆರೆ"), ("7", "Close it now", "ಮುಚ್ಚಿ")], "id\ten\tkn")
    with pytest.raises(UserError, match="dev.tsv: id '7' is used twice"):
        planned()
    (project / "dev.jsonl").write_text(json.dumps(dict(en="Open\tit now", kn="ತೆರೆ")), encoding="utf-8")
    with pytest.raises(UserError, match="dev.jsonl, line 1: 'en' holds a tab"):
        planned(dev="dev.jsonl")


def test_what_an_interrupted_attempt_wrote_is_used(project):
    before = (project / "settings.ini").read_bytes()
    adding.write_language(planned())
    (project / "settings.ini").write_bytes(before)
    adding.write_language(planned())
    assert load("kannada").languages == ["kn"]
    (project / "settings.ini").write_bytes(before)
    (project / "corpus-kn/dev.en-kn.tsv.xz").touch()
    with pytest.raises(UserError, match="dev.en-kn.tsv.xz exists"):
        planned()


def test_a_folder_beside_the_settings_is_found_from_elsewhere(project, tmp_path_factory, monkeypatch):
    adding.write_language(planned())
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert load("kannada").p.corpus == "corpus-kn"
    assert len(Corpus.open("corpus-kn").test("dev", "en-kn")) == 3


def test_beside_languages_of_the_profiles_corpus(project):
    "Their files are copied, with the table of licences, and their values are kept."
    addition = planned(beside=["hi", "ta"])
    adding.write_language(addition)
    study = load("kannada")
    assert study.directions[:3] == ["hi-en", "ta-en", "kn-en"]
    assert study.p.repair_trained == ["en-hi", "en-kn"] and study.p.train_pairs["hi"] == 928
    assert study.p.train_pairs["en-ta"] == 2688 and "bn" not in addition.settings.split("train_pairs")[1]
    embedded, mine = Corpus.open("embedded"), Corpus.open(study.p.corpus)
    assert (mine.folder / "README.md").read_bytes() == (embedded.folder / "README.md").read_bytes()
    assert mine.test("dev", "en-hi", 5).equals(embedded.test("dev", "en-hi", 5))
    assert sorted(mine.test("dev", "en-kn").id) == ["2", "3", "5"]


def test_beside_what_is_not_there(project):
    with pytest.raises(UserError, match="unknown language of the corpus 'embedded'.*'mr'"):
        planned(beside=["mr"])
    (project / "corpus-kn").mkdir()
    (project / "corpus-kn/train.en-hi.tsv.xz").write_bytes(b"other")
    with pytest.raises(UserError, match="train.en-hi.tsv.xz exists and is not"):
        planned(beside=["hi"])


WRITTEN = dict(
    ja=("Japanese", ["新しい窓でファイルを開く", "このウィンドウを閉じる", "フォルダに保存", "フォルダー"], "Japanese"),
    ko=("Korean", ["새 창에서 파일을 여십시오", "이 窓을 닫으십시오", "폴더에 저장", "모두 인쇄"], "Korean"),
    zh=("Chinese", ["在新窗口中打开文件", "现在关闭这个窗口", "将文件保存到文件夹中的の", "打印全部内容"], "CJK"),
    th=("Thai", ["เปิดไฟล์ในหน้าต่างใหม่", "ปิดหน้าต่างนี้", "บันทึกไฟล์", "พิมพ์หน้านี้ทั้งหมด"], "Thai"),
    my=("Burmese", ["ဖိုင်ကိုဖွင့်ပါ", "ဒီဝင်းဒိုးကိုပိတ်ပါ", "ဖိုင်ကိုသိမ်းပါ", "ဖွင့်ပါ"], "Myanmar"),
)


def written(project, code):
    for kind, word in (("train", ""), ("dev", " now"), ("devtest", " here")):
        lines = [(f"Open file number {i}{word}", text) for i, text in enumerate(WRITTEN[code][1])]
        table(project / f"{kind}.tsv", lines, f"en\t{code}")
    return {kind: f"{kind}.tsv" for kind in ("train", "dev", "devtest")}


@pytest.mark.parametrize("code", WRITTEN)
def test_languages_that_spaces_do_not_part(project, code):
    "The script has all of its letters, and BLEU's tokeniser is written and named."
    name, texts, script = WRITTEN[code]
    addition = adding.plan_language(code, name, **written(project, code))
    adding.write_language(addition)
    language = load(name.lower()).language(code)
    assert language.script == script and language.tokeniser in ("zh", "ja-mecab", "ko-mecab", "flores200", "char")
    assert all(in_script(text, language.script) > .9 for text in texts)
    assert any(f"tokeniser is {language.tokeniser}" in note for note in addition.notes)


def test_scripts_that_a_user_names(project):
    files = written(project, "ja")
    for asked, noted in (("Jpan", "Japanese"), ("Hira Kana Hani", "Hiragana Katakana CJK")):
        assert f"script = {noted}\n" in adding.plan_language("ja", "Japanese", script=asked, **files).settings
    with pytest.raises(UserError, match="of the letters are Japanese"):
        adding.plan_language("ja", "Japanese", script="Katakana", **files)


def test_a_name_that_would_make_the_settings_unreadable(project):
    with pytest.raises(UserError, match="name = Kannada ; mine: comments"):
        adding.plan_language("kn", "Kannada ; mine", **{kind: f"{kind}.tsv" for kind in ("train", "dev", "devtest")})


def test_a_file_of_another_script(project):
    table(project / "train.tsv", [("Open the file", "Kadatavannu tereyiri")] * 3)
    with pytest.raises(UserError, match="dev.tsv: 100% of the letters of kn are Kannada, most letters of all"):
        planned()


def test_a_profile_whose_corpus_lacks_a_language(project):
    adding.write_language(planned())
    path = project / "settings.ini"
    path.write_text(path.read_text(encoding="utf-8").replace("languages = kn", "languages = hi kn"), encoding="utf-8")
    with pytest.raises(UserError, match="corpus-kn has no direction 'hi-en'"):
        rebuild.check_corpus(load("kannada"))


SERBIAN = ["Отвори датотеку", "Zatvori prozor", "Нова датотека", "Sačuvaj sve"]


def test_sentences_in_two_scripts(project):
    for kind, word in (("train", ""), ("dev", " now"), ("devtest", " here")):
        lines = [(f"Open file number {i}{word}", text) for i, text in enumerate(SERBIAN)]
        table(project / f"{kind}.tsv", lines, "en\tsr")
    files = {kind: f"{kind}.tsv" for kind in ("train", "dev", "devtest")}
    with pytest.raises(UserError, match='are Cyrillic, .*Latin: write --script "Cyrillic Latin" if it has both'):
        adding.plan_language("sr", "Serbian", **files)
    addition = adding.plan_language("sr", "Serbian", script="Cyrillic Latin", **files)
    assert "script = Cyrillic Latin\n" in addition.settings and "(100% of the letters)" in addition.notes[0]


def test_a_few_words_of_another_script_are_no_second_one(project):
    table(project / "train.tsv", [("Open Firefox now", "ಕಡತವನ್ನು ಈಗ ತೆರೆಯಿರಿ Web")] * 3)
    assert "script = Kannada\n" in planned().settings


def test_apostrophes_that_are_letters_are_of_no_script(project):
    for kind, word in (("train", ""), ("dev", " now"), ("devtest", " here")):
        table(project / f"{kind}.tsv", [(f"Open the file {i}{word}", "Faylni oʻqing, 2ª") for i in range(4)], "en\tuz")
    files = {kind: f"{kind}.tsv" for kind in ("train", "dev", "devtest")}
    assert "Latin (100% of the letters)" in adding.plan_language("uz", "Uzbek", **files).notes[0]


def test_the_code_of_indonesian_is_the_name_of_a_column(project):
    files = {kind: f"{kind}.tsv" for kind in ("train", "dev", "devtest")}
    with pytest.raises(UserError, match="code 'id' is the name of the column of identifiers: .*ind"):
        adding.plan_language("id", "Indonesian", **files)


def test_a_table_with_the_quotation_marks_of_csv(project):
    table(project / "dev.tsv", [('"Press ""OK"" now"', "ತೆರೆ")] * 3)
    with pytest.raises(UserError, match="dev.tsv, line 2: 'en' is quoted as in CSV"):
        planned()
