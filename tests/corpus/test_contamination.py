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


SPELLINGS = {
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
}


@pytest.mark.parametrize("kind", SPELLINGS)
def test_spellings_of_unicode_are_one(kind):
    one, other = SPELLINGS[kind]
    line = "a line of six words with {}"
    for written, searched in ((one, other), (other, one)):
        known = {7: contamination.runs(contamination.plain_words(line.format(written)), 7)}
        assert contamination.overlaps("and then " + line.format(searched), known)


def test_other_words_stay_others():
    assert contamination.plain_words("\u0915") != contamination.plain_words("\u0915\u093c")
    assert contamination.plain_words("resume") != contamination.plain_words("re\u0301sume\u0301")
    assert contamination.plain_words("one\u200btwo") == ["one", "two"]


def test_counts_of_the_embedded_corpus():
    known = contamination.testset_runs(Corpus.open("embedded"))
    counts = {length: len(hashes) for length, hashes in sorted(known.items())}
    assert counts == {6: 1214, 7: 1043, 8: 860, 9: 685, 10: 592, 11: 495, 12: 390, 13: 5150}
