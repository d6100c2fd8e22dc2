"Languages without spaces between words: BLEU's tokeniser, limits of new tokens, and nothing new for all others."

from dataclasses import replace
from types import SimpleNamespace

import pytest

from mmtmerge import metrics
from mmtmerge.core import UserError, root
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
