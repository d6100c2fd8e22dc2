"Languages without spaces between words: BLEU's tokeniser, limits of new tokens, and nothing new for all others."

import re
import warnings
from dataclasses import replace
from types import SimpleNamespace

import pytest

from mmtmerge import metrics
from mmtmerge.core import UserError, root
from mmtmerge.corpus.embedded import Corpus
from mmtmerge.models import load_model
from mmtmerge.settings import Language, load, settings_digest
from mmtmerge.translate import ask, source_length

SIGNATURE = "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp"
SPACELESS = {
    "Chinese": "我们昨天去了图书馆。",
    "Japanese": "昨日、図書館へ行きました。",
    "Thai": "เราไปห้องสมุดเมื่อวานนี้",
    "Burmese": "ကျွန်ုပ်တို့စာကြည့်တိုက်သွားသည်",
    "Khmer": "យើងបានទៅបណ្ណាល័យ",
}
SPACED = ["वह घर गया।", "வந்தார்", "আমি", "రాముడు వచ్చాడు", "The library", "도서관에 갔다", "", "12 345", "图书 is the word"]


@pytest.fixture(scope="module")
def tokenizer():
    return load_model(root() / "mmtmerge/data/miniature")[1]


@pytest.mark.parametrize("source", SPACED)
def test_limits_of_the_studys_languages_are_as_they_were(tokenizer, source):
    "Words times the ratio, plus the rest, to the number."
    p = SimpleNamespace(new_token_ratio=2.5, new_token_extra=8)
    _, limits, _ = ask(tokenizer, "Translate", [source], p)
    assert limits == [int(2.5 * len(source.split()) + 8)]


@pytest.mark.parametrize("source", SPACELESS.values(), ids=list(SPACELESS))
def test_limits_without_spaces(tokenizer, source):
    "Tokens are counted where white space does not part words."
    assert source_length(tokenizer, source) == len(tokenizer(source, add_special_tokens=False)["input_ids"])
    assert source_length(tokenizer, source) > len(source.split())


UNBROKEN = dict(
    url="请访问https://www.example.com/download/releases/latest.html下载文件",
    digits="共2024年12月31日1,234,567元",
    thai_and_latin="เปิดไฟล์ final_report_2024_v2.docx ใน Microsoft Word",
    halfwidth="ｱｶｳﾝﾄｦ ﾋﾗｲﾃｸﾀﾞｻｲ",
    javanese="ꦧꦸꦏꦏ꧀ꦥ꧀ꦭꦶꦥꦶꦏꦶ",
    yi="ꆈꌠꁱꂷꀀꐚꌺꋍꂷ",
    tai_le="ᥖᥭᥰᥘᥫᥴᥔᥛᥭᥲ",
    lanna="ᨲᩫ᩠ᩅᨾᩮᩬᩥᨦ",
    shan="ပိုတ်ႇၽိုၼ်ဢၼ်ၼႆႉ",
    myanmar_extended="ꩠꩡꩢꩣꩤꩥꩦꩧ",
    bopomofo="ㄅㄆㄇㄈㄉㄊㄋ",
    radicals="⼀⼁⼂⼃⼄⼅",
    korean="새창에서파일을열어주세요지금바로",
    balinese="ᬩᬸᬓᬯᬶᬦ᭄ᬤᭀ",
    hentaigana="𛀂𛀃𛀄𛀅",
    plane_3="𰀀𰀁𰀂𰀃",
    newest="\U00031350\U00031351",
    one="好",
    address="https://www.example.com/download/releases/latest.html",
)


@pytest.mark.parametrize("name", UNBROKEN)
def test_sources_that_spaces_do_not_part(tokenizer, name):
    "Long enough for what they say."
    ids = tokenizer(UNBROKEN[name], add_special_tokens=False)["input_ids"]
    assert source_length(tokenizer, UNBROKEN[name]) == len(ids)


RANGES = (
    "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff]"
)


def test_limits_of_all_packaged_sentences_are_as_they_were(tokenizer):
    "By the rule that committed results were made with: words, where half of the characters are of no such script."
    corpus, count = Corpus.open("embedded"), 0
    for code in ("hi", "bn", "ta", "te"):
        for split in ("dev", "devtest"):
            lines = corpus.test(split, f"en-{code}")
            for source in {*lines.source, *lines.target}:
                before = None if 2 * len(re.findall(RANGES, source)) > len(source) else len(source.split())
                assert source_length(tokenizer, source) == before, source
                count += 1
    assert count > 8000


@pytest.mark.parametrize(
    "script, first",
    [("Thai", ""), ("Lao", ""), ("Khmer", ""), ("CJK", "zh"), ("Japanese", "ja-mecab"), ("Korean", "ko-mecab")],
)
def test_a_tokeniser_that_can_be_used_is_found(monkeypatch, script, first):
    def check(name, code):
        if name in lacking:
            raise UserError("not here")

    monkeypatch.setattr(metrics, "check_tokeniser", check)
    for lacking in ((), ("flores200",), ("ja-mecab", "ko-mecab"), ("flores200", "ja-mecab", "ko-mecab")):
        wanted = next(name for name in (first, "flores200", "char") if name and name not in lacking)
        name, note = metrics.fitting_tokeniser(script)
        assert name == wanted and name in note
    assert metrics.fitting_tokeniser("Kannada") == ("13a", "")


def test_words_that_no_space_parts_are_not_scored_silently():
    study = load("laptop")
    for script, tokeniser, told in (("Thai", "13a", True), ("Thai", "char", False), ("Korean", "13a", False)):
        other = Language("hi", "Hindi", script, "", tokeniser)
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            metrics.tokenisers(replace(study, known=study.known | {"hi": other}), [study.direction("en-hi")])
        assert bool(seen) == told
        assert not told or "tokeniser = " in str(seen[0].message)


def test_signatures_and_digests_are_as_they_were():
    "The study's languages have no tokeniser of their own, and their digests do not know of one."
    study = load("laptop")
    assert metrics.tokenisers(study, study.directions) == ["13a"]
    assert metrics.signatures()["BLEU"].startswith(SIGNATURE)
    assert metrics.signatures("13a") == metrics.signatures()
    known = {"code": "hi", "name": "Hindi", "script": "Devanagari", "flores": "hin_Deva"}
    assert study.language("hi").values() == known
    chinese = Language("hi", "Hindi", "Devanagari", "hin_Deva", "zh")
    other = replace(study, known=study.known | {"hi": chinese})
    assert settings_digest(other, "seed") != settings_digest(study, "seed")


def test_scores_by_the_tokeniser():
    "Near-identical Chinese scores, and the signature says why."
    hyps, refs = ["我们昨天去了图书馆。", "他喜欢看书。"], ["我们昨天去图书馆了。", "他很喜欢看书。"]
    weights = metrics.bootstrap_weights(2, 10, 0)
    words, characters = (metrics.score(hyps, refs, weights, tokeniser)["BLEU"] for tokeniser in ("13a", "zh"))
    assert words["score"] < 1 < 40 < characters["score"]
    assert "tok:zh" in characters["signature"]
    assert "tok:13a" in metrics.signatures("13a", "zh")["BLEU"]
    assert "tok:zh" in metrics.signatures("13a", "zh")["BLEU"]


def test_what_sacrebleu_lacks_is_named(monkeypatch):
    "A tokeniser whose parts are not installed is refused with the language and the reason."
    from sacrebleu.tokenizers import tokenizer_ja_mecab

    monkeypatch.setattr(tokenizer_ja_mecab, "MeCab", None)
    with pytest.raises(UserError, match=r"\[language ja\]: tokeniser = ja-mecab.*pip install sacrebleu\[ja\]"):
        metrics.check_tokeniser("ja-mecab", "ja")
