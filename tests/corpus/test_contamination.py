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
