"Rows are text, or refused with their file and line: TSV, JSON lines, Parquet, streams."
import dataclasses
import json

import datasets
import numpy as np
import pandas as pd
import pytest

from mmtmerge.core import UserError
from mmtmerge.corpus.embedded import Corpus, read_table
from mmtmerge.corpus.hub import HubCorpus
from mmtmerge.corpus.splits import load_split

NO_TEXT = {
    "null": "null",
    "NaN": "NaN",
    "a number": "7",
    "true or false": "true",
    "a list": '["a", "b"]',
    "an object": '{"text": "a"}',
    "empty": '""',
    "is empty": r'" \u200b\ufeff"',
    "surrogate": r'"\ud83d"',
}


@pytest.mark.parametrize("said", NO_TEXT)
def test_json_lines(tmp_path, said):
    path = tmp_path / "train.en-hi.jsonl"
    path.write_text('{"en": "a", "hi": "x"}\n{"en": %s, "hi": "x"}\n' % NO_TEXT[said])
    with pytest.raises(UserError, match=rf"train.en-hi.jsonl, line 2: 'en' .*{said}"):
        read_table(path, ["en", "hi"])


def test_a_blank_cell_of_a_table(tmp_path):
    path = tmp_path / "train.en-hi.tsv"
    path.write_text("en\thi\nYes\tहाँ\nNo\t\u200b\u00a0\n")
    with pytest.raises(UserError, match="train.en-hi.tsv, line 3: 'hi' is empty"):
        read_table(path, ["en", "hi"])


def test_words_that_look_like_nothing_stay(tmp_path):
    path = tmp_path / "x.jsonl"
    rows = ["NA", "null", "None", "nan", "7", "👍", "क\u200d"]
    path.write_text("".join(json.dumps(dict(en=text)) + "\n" for text in rows))
    assert read_table(path, ["en"]).en.tolist() == rows


def test_identifiers_may_be_numbers_but_not_null(tmp_path):
    (tmp_path / "train.en-hi.tsv").write_text("en\thi\nYes\tहाँ\n")
    dev = tmp_path / "dev.jsonl"
    dev.write_text('{"id": 7, "en": "Yes", "hi": "हाँ"}\n{"id": "b", "en": "No", "hi": "नहीं"}\n')
    assert sorted(Corpus.open(tmp_path).test("dev", "en-hi").id) == ["7", "b"]
    dev.write_text('{"id": null, "en": "Yes", "hi": "हाँ"}\n')
    with pytest.raises(UserError, match="line 1: 'id' is null"):
        Corpus.open(tmp_path).test("dev", "en-hi")


SRC = ["Good morning to you", "He went home", "It rains today"]
TGT = ["शुभ प्रभात आपको", "वह घर गया", "आज बारिश है"]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    "Makes a corpus with these columns."
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    described = HubCorpus.open("samanantar")

    def corpus(src=SRC, tgt=TGT, **more):
        folder = tmp_path / "data/hi"
        folder.mkdir(parents=True)
        pd.DataFrame(dict(src=src, tgt=tgt)).to_parquet(folder / "train-00000-of-00001.parquet")
        spec = described.spec | dict(train=str(tmp_path / "data"), languages="hi") | more
        return dataclasses.replace(described, spec=spec)

    return corpus


BAD_COLUMNS = {
    "row 2: 'en' is null": dict(src=[SRC[0], None, SRC[2]]),
    "row 3: 'en' is null": dict(src=[*SRC[:2], np.nan]),
    "row 2: 'hi' is empty": dict(tgt=[TGT[0], "", "  "]),
    "row 1: 'hi' is empty": dict(tgt=["\u200b\u3000", *TGT[1:]]),
    "column 'en' holds int64, not text": dict(src=[1, 2, 3]),
    "column 'en' holds float64, not text": dict(src=[1.5, np.nan, 3]),
    "column 'hi' holds List, not text": dict(tgt=[[text] for text in TGT]),
    "column 'en' holds null, not text": dict(src=[None, None, None]),
}


@pytest.mark.parametrize("streaming", [0, 1])
@pytest.mark.parametrize("said", BAD_COLUMNS)
def test_rows_of_data_sets(hub, said, streaming):
    corpus = hub(**BAD_COLUMNS[said], streaming=streaming)
    with pytest.raises(UserError, match=said):
        corpus.train("hi-en", 3)
    with pytest.raises(UserError, match=said):
        corpus.train("en-hi", 3, min_words=2, max_words=9)


@pytest.mark.parametrize("streaming", [0, 1])
def test_rows_without_text_can_be_left_out(hub, streaming):
    corpus = hub(src=[SRC[0], None, SRC[2]], tgt=[*TGT[:2], " "], streaming=streaming, drop_empty=1)
    assert corpus.train("en-hi", 3)["target"][:] == [TGT[0]]


def with_lines(tmp_path, text):
    "A test set of two lines, whose Hindi is given."
    described = HubCorpus.open("samanantar")
    (tmp_path / "flores/dev").mkdir(parents=True)
    english = '{"id": 0, "text": "Yes"}\n{"id": 1, "text": "No"}\n'
    (tmp_path / "flores/dev/eng_Latn.jsonl").write_text(english)
    (tmp_path / "flores/dev/hin_Deva.jsonl").write_text(text)
    flores = described.testsets["dev"] | dict(repo=str(tmp_path / "flores"))
    return dataclasses.replace(described, testsets=dict(dev=flores, devtest=flores))


BAD_LINES = {
    "hin_Deva, dev, row 1: 'text' is null": '{"id": 0, "text": null}\n{"id": 1, "text": "x"}\n',
    "hin_Deva, dev, row 2: 'text' is empty": '{"id": 0, "text": "x"}\n{"id": 1, "text": " "}\n',
    "row 2: 'id' is null": '{"id": 0, "text": "x"}\n{"id": null, "text": "y"}\n',
    "hin_Deva.*(row|line) 2: 'text' is a number": '{"id": 0, "text": "x"}\n{"id": 1, "text": 7}\n',
    "hin_Deva.jsonl, line 2: 'text' holds half of a": '{"id": 0, "text": "x"}\n{"id": 1, "text": "\\ud83d"}\n',
    "hin_Deva.jsonl, line 2: not JSON": '{"id": 0, "text": " "}\n{"id": 1, "text": \n',
}


@pytest.mark.parametrize("said", BAD_LINES)
def test_lines_of_test_sets(tmp_path, monkeypatch, said):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    corpus = with_lines(tmp_path, BAD_LINES[said])
    with pytest.raises(UserError, match=said):
        corpus.test("dev", "hi-en")


def test_data_sets_that_are_programs(tmp_path):
    folder = tmp_path / "samanantar"
    folder.mkdir()
    (folder / "samanantar.py").write_text("import datasets\n")
    (folder / "README.md").write_text("---\nlanguage: [en, hi]\n---\n")
    with pytest.raises(UserError, match="loading script .*Parquet"):
        load_split(str(folder), "hi", "train")


def test_a_damaged_table(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "data/hi").mkdir(parents=True)
    (tmp_path / "data/hi/train-00000-of-00001.parquet").write_bytes(b"PAR1 cut short")
    with pytest.raises(UserError, match="a file cannot be read"):
        load_split(str(tmp_path / "data"), "hi", "train")
