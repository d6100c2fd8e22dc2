"Streams give what is asked for, from all their files, and continue where they were interrupted."
import shutil

import datasets
import pandas as pd
import pytest

from hub_copies import use_copies, write_copies
from mmtmerge.corpus import stream
from mmtmerge.corpus.embedded import Corpus
from mmtmerge.corpus.open import open_corpus


@pytest.fixture
def paper(tmp_path, copy, monkeypatch):
    project = copy("stream")
    use_copies(write_copies(tmp_path), project, streaming=1)
    monkeypatch.setenv("MMTMERGE_ROOT", str(project))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return open_corpus("samanantar")


def second_file(tmp_path):
    return tmp_path / "samanantar/hi/train-00001-of-00003.parquet"


def test_a_stream_gives_as_many_pairs_as_are_asked_for(paper):
    embedded = Corpus.open("embedded").train("en-hi", 300)
    number = {pair: i for i, pair in enumerate(zip(embedded.source, embedded.target))}
    pairs = paper.train("en-hi", 50, min_words=2)
    assert len(pairs) == 50
    files = {number[pair] // 100 for pair in zip(pairs["source"], pairs["target"])}
    assert files == {0, 1, 2}
    assert len(paper.train("hi-en", 90)) == 90


def test_without_a_number_all_pairs_are_read(paper):
    embedded = Corpus.open("embedded").train("en-hi", 300)
    assert len(set(paper.train("hi-en")["target"])) == len(set(embedded.source))


def test_what_was_read_is_not_read_again_unless_the_files_changed(tmp_path, paper, monkeypatch):
    pairs = paper.train("en-hi", 50, min_words=2)
    with monkeypatch.context() as patch:
        patch.setattr(datasets.IterableDataset, "__iter__", lambda self: pytest.fail("the source is read again"))
        again = open_corpus("samanantar").train("en-hi", 50, min_words=2)
    assert again["source"][:] == pairs["source"][:]
    file = second_file(tmp_path)
    pd.read_parquet(file).assign(src="new").to_parquet(file, index=False)
    assert "new" in open_corpus("samanantar").train("en-hi", 50)["source"]


@pytest.mark.parametrize("n", [1000, 230])
def test_an_interrupted_stream_continues(tmp_path, paper, monkeypatch, n):
    "After the last whole block, with the same rows in the same order; from files of different lengths."
    file = second_file(tmp_path)
    pd.read_parquet(file)[:37].to_parquet(file, index=False)
    monkeypatch.setattr(stream, "BLOCK", 20)
    whole = paper.rows_of("hi", n).to_pandas()
    assert len(whole) == min(n, 237) and not whole.duplicated().any()
    shutil.rmtree(tmp_path / "cache")
    written, write_block = [], stream.write_block

    def killed_after_four(rows, schema, state, folder):
        if len(written) == 4:
            raise KeyboardInterrupt
        write_block(rows, schema, state, folder)
        written.append(folder / "rows.arrow")

    monkeypatch.setattr(stream, "write_block", killed_after_four)
    with pytest.raises(KeyboardInterrupt):
        paper.rows_of("hi", n)
    before = [file.stat().st_mtime_ns for file in written]
    monkeypatch.setattr(stream, "write_block", write_block)
    assert paper.rows_of("hi", n).to_pandas().equals(whole)
    assert [file.stat().st_mtime_ns for file in written] == before
