"Training pairs that hold a piece of a test sentence are found, and dropped where the settings say so."
import json
import subprocess
import sys

import pandas as pd
import pytest

from conftest import REPO, environment
from hub_copies import use_copies, write_copies
from mmtmerge.corpus import contamination
from mmtmerge.corpus.embedded import Corpus
from mmtmerge.corpus.open import open_corpus


@pytest.mark.parametrize("column, side", [("src", "source"), ("tgt", "target")])
def test_overlap_is_found_and_dropped(tmp_path, copy, monkeypatch, column, side):
    "On either side; counted by one process, dropped by two."
    folder, project = write_copies(tmp_path), copy("overlap")
    lines = Corpus.open("embedded").test("devtest", "en-hi", 50)[side]
    line = max(lines, key=lambda text: len(text.split()))
    assert len(contamination.plain_words(line)) >= 13
    file = folder / "samanantar/hi/train-00000-of-00003.parquet"
    rows = pd.read_parquet(file)
    rows.loc[0, column] = f"and then {line.upper()} so it ends"
    rows.to_parquet(file)
    use_copies(folder, project)
    monkeypatch.setenv("MMTMERGE_ROOT", str(project))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    counted = contamination.overlap(open_corpus("samanantar"), ["en-hi"]).iloc[0]
    assert counted.pairs == 300 and counted.overlapping >= 1
    use_copies(folder, project, drop_overlap=1)
    kept = open_corpus("samanantar", 2).train("en-hi")
    assert len(kept) == 300 - counted.overlapping
    assert not any(line.upper() in text for text in kept[side])


def test_runs_are_alike_in_every_process():
    words = ["a", "run", "of", "शब्द"] * 4
    program = f"from mmtmerge.corpus.contamination import runs; print(sorted(runs({words})))"
    other = environment(REPO, PYTHONHASHSEED="7")
    said = subprocess.run([sys.executable, "-c", program], env=other, capture_output=True, text=True, check=True)
    assert len(contamination.runs(words)) == 4
    assert json.loads(said.stdout) == sorted(contamination.runs(words))


def known_of(*texts):
    "What is searched for where these are the test."
    class Lines:
        pivot = "en"

        def languages(self):
            return ["xx"]

        def test(self, split, direction):
            return pd.DataFrame(dict(source=["short"] * len(texts), target=texts))

    return contamination.testset_runs(Lines(), ["dev"])


SPELLINGS = {
    "Odia yya": ("\u0b05\u0b5f", "\u0b05\u0b2f\u0b3c"),
    "Romanian s and t": ("\u015f\u0163", "\u0219\u021b"),
    "nukta letters": ("\u0958\u095e", "\u0915\u093c\u092b\u093c"),
    "Bengali yya and rra": ("\u09df\u09dc", "\u09af\u09bc\u09a1\u09bc"),
    "Tamil vowels of two parts": (
        "\u0b95\u0bca\u0b95\u0bcb\u0b95\u0bcc",
        "\u0b95\u0bc6\u0bbe\u0b95\u0bc7\u0bbe\u0b95\u0bc6\u0bd7",
    ),
    "Telugu ai": ("\u0c15\u0c48", "\u0c15\u0c46\u0c56"),
    "accents": ("\u00e9\u00c5", "e\u0301A\u030a"),
    "joiners": ("\u0915\u094d\u200d\u0937", "\u0915\u094d\u0937"),
    "non-joiners": ("\u0c15\u0c4d\u200c\u0c37", "\u0c15\u0c4d\u0c37"),
    "soft hyphens": ("hy\u00adphen", "hyphen"),
    "digits": ("\u0967\u0968", "12"),
    "Arabic digits": ("\u0661\u0662", "\u06f1\u06f2"),
    "full width": ("\uff41\uff11", "a1"),
    "half width": ("\uff8c\uff67\uff72\uff99", "\u30d5\u30a1\u30a4\u30eb"),
    "Thai am": ("\u0e19\u0e49\u0e33", "\u0e19\u0e49\u0e4d\u0e32"),
    "Bengali khanda ta": ("\u09b9\u09a0\u09be\u09ce", "\u09b9\u09a0\u09be\u09a4\u09cd\u200d"),
    "Malayalam chillu": ("\u0d05\u0d35\u0d7b", "\u0d05\u0d35\u0d28\u0d4d\u200d"),
    "Malayalam au": ("\u0d15\u0d4c", "\u0d15\u0d57"),
    "visarga": ("\u0905\u0924\u0903", "\u0905\u0924:"),
    "visarga within": ("\u0926\u0941\u0903\u0916", "\u0926\u0941:\u0916"),
    "Devanagari o": ("\u0911\u092b", "\u0906\u0945\u092b"),
    "Gujarati o": ("\u0a93\u0aae", "\u0a86\u0ac7\u0aae"),
    "Tamil signs reversed": ("\u0b95\u0bca", "\u0b95\u0bbe\u0bc6"),
    "Tamil sri": ("\u0bb6\u0bcd\u0bb0\u0bc0", "\u0bb8\u0bcd\u0bb0\u0bc0"),
    "Tamil au": ("\u0b94", "\u0b92\u0bb3"),
    "anusvara": ("\u0939\u093f\u0902\u0926\u0940", "\u0939\u093f\u0928\u094d\u0926\u0940"),
    "anusvara of Bengali": ("\u09b0\u0982\u0997", "\u09b0\u0999\u09cd\u0997"),
    "candrabindu": ("\u0935\u0939\u093e\u0901", "\u0935\u0939\u093e\u0902"),
    "tippi": ("\u0a28\u0a42\u0a70", "\u0a28\u0a42\u0a02"),
    "a dropped nukta": ("\u092b\u093c\u093e\u0907\u0932", "\u092b\u093e\u0907\u0932"),
    "Arabic yeh and kaf": ("\u064a\u0643", "\u06cc\u06a9"),
    "Arabic stretch": ("\u0645\u0640\u0640\u062d", "\u0645\u062d"),
    "Arabic vowels": ("\u0645\u064f\u062d\u064e\u0651", "\u0645\u062d"),
    "Hebrew vowels": ("\u05e9\u05c1\u05b8\u05dc\u05d5\u05b9\u05dd", "\u05e9\u05dc\u05d5\u05dd"),
    "Turkish i": ("\u0130stanbul ISPARTA", "istanbul \u0131sparta"),
    "apostrophes": ("don\u02bct", "don't"),
    "entities": ("R&amp;D &quot;x&quot;", 'R&D "x"'),
    "keyboard marks": ("O_pen E&xit C~lose", "Open Exit Close"),
    "zero width spaces": ("o\u200bpen", "open"),
    "parts of Persian words": ("\u0645\u06cc\u200c\u062e\u0648", "\u0645\u06cc \u062e\u0648"),
}


@pytest.mark.parametrize("kind", SPELLINGS)
def test_spellings_of_unicode_are_one(kind):
    one, other = SPELLINGS[kind]
    line = "a line of six words with {} words"
    for written, searched in ((one, other), (other, one)):
        known = known_of(line.format(written))
        assert contamination.overlaps("and then " + line.format(searched), known)


SPACELESS = {
    "Chinese": "请在新的窗口中打开这个文件然后保存",
    "Japanese": "新しい窓でこのファイルを開いてから保存してください",
    "Thai": "เปิดไฟล์ในหน้าต่างใหม่แล้วบันทึก",
    "Lao": "ເປີດໄຟລ໌ໃນປ່ອງຢ້ຽມໃໝ່ແລ້ວບັນທຶກ",
    "Khmer": "សូមបើកឯកសារនៅក្នុងបង្អួចថ្មីហើយរក្សាទុក",
    "Burmese": "ဖိုင်ကိုဝင်းဒိုးအသစ်တွင်ဖွင့်ပြီးသိမ်းဆည်းပါ",
}


@pytest.mark.parametrize("language", SPACELESS)
def test_languages_without_spaces(language):
    text = SPACELESS[language]
    known = known_of(text)
    assert known and contamination.overlaps(f"AB{text[:3]}{text}{text[:4]}", known)
    assert not contamination.overlaps(text[1:], known)
    assert not known_of(text[:8])
    long = known_of(text + "X" + text[::-1] + text)
    assert contamination.overlaps(text + "X" + text[::-1], long)


def test_other_words_stay_others():
    assert contamination.plain_words("\u0915") != contamination.plain_words("\u0915\u093c")
    assert contamination.plain_words("resume") != contamination.plain_words("re\u0301sume\u0301")
    assert contamination.plain_words("one\u200btwo") == ["one", "two"]


def test_counts_of_the_embedded_corpus():
    known = contamination.testset_runs(Corpus.open("embedded"))
    counts = {length: len(hashes) for length, hashes in sorted(known.items())}
    assert counts == {6: 1214, 7: 1043, 8: 860, 9: 685, 10: 592, 11: 495, 12: 390, 13: 5150}
