"Rows are text, or refused with their file and line: TSV, JSON lines, Parquet, streams."
import dataclasses
import gzip
import json
import lzma
from configparser import ConfigParser

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmtmerge.core import UserError
from mmtmerge.corpus.embedded import Corpus, read_table
from mmtmerge.corpus.hub import SWITCHES, HubCorpus
from mmtmerge.corpus.splits import load_split

NO_TEXT = {
    "null": "null",
    "NaN": "NaN",
    "a number": "7",
    "true or false": "true",
    "a list": '["a", "b"]',
    "an object": '{"text": "a"}',
    "empty": '""',
    "the end of a line .character 2": r'"a\nb"',
    "the control character U.0008 .character 1": r'"\bb"',
    "given twice": '"b", "en": "a"',
    "is empty": r'" \u200b\ufeff"',
    "surrogate": r'"\ud83d"',
}


@pytest.mark.parametrize("said", NO_TEXT)
def test_json_lines(tmp_path, said):
    path = tmp_path / "train.en-hi.jsonl"
    path.write_text('{"en": "a", "hi": "x"}\n{"en": %s, "hi": "x"}\n' % NO_TEXT[said])
    with pytest.raises(UserError, match=rf"train.en-hi.jsonl, line 2: .*'en' .*{said}"):
        read_table(path, ["en", "hi"])


UNSEEN = "\u2800 \u3164 \u115f \u200e\u200f \u180e \ufe0f \u2066\u2069 \U000e0020 \0 \b \u034f \u0301".split(" ")


@pytest.mark.parametrize("text", UNSEEN, ids=ascii)
def test_something_must_be_seen(tmp_path, text):
    path = tmp_path / "train.en-hi.jsonl"
    path.write_text(json.dumps(dict(en=text, hi="x")) + "\n")
    with pytest.raises(UserError, match="line 1: 'en' is empty"):
        read_table(path, ["en", "hi"])


@pytest.mark.parametrize("name, text", [("x.jsonl", '{"en": "a"}'), ("x.tsv", "en\na"), ("x.tsv.xz", "en\na")])
def test_blank_lines_are_no_rows(tmp_path, name, text):
    path = tmp_path / name
    content = f"{text}\n\n  \r\n{text.splitlines()[-1]}\n\n\n".encode()
    path.write_bytes(lzma.compress(content) if name.endswith("xz") else content)
    assert read_table(path, ["en"]).en.tolist() == ["a", "a"]


def test_a_column_named_twice(tmp_path):
    path = tmp_path / "x.tsv"
    path.write_text("en\thi\n")
    with pytest.raises(UserError, match="has no rows"):
        read_table(path, ["en", "hi"])
    path.write_text("en\thi\ten\nYes\tहाँ\tNo\n")
    with pytest.raises(UserError, match="line 1: column 'en' is named twice"):
        read_table(path, ["en", "hi"])
    assert read_table(path, ["hi"]).hi.tolist() == ["हाँ"]


@pytest.mark.parametrize("after", [b"something else", lzma.compress(b"b\n")[:-4]])
def test_what_follows_packed_data(tmp_path, after):
    path = tmp_path / "x.tsv.xz"
    path.write_bytes(lzma.compress(b"en\na\n") + lzma.compress(b"b\n"))
    assert read_table(path, ["en"]).en.tolist() == ["a", "b"]
    path.write_bytes(lzma.compress(b"en\na\n") + after)
    with pytest.raises(UserError, match="x.tsv.xz cannot be read"):
        read_table(path, ["en"])


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


NO_UTF8 = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff\xfe"]).buffers())
SRC = ["Good morning to you", "He went home", "It rains today"]
TGT = ["शुभ प्रभात आपको", "वह घर गया", "आज बारिश है"]


def arrow(values):
    "A column as pandas writes it, NaN as null."
    return values if isinstance(values, pa.Array) else pa.array(values, from_pandas=True)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    "Makes a corpus with these columns."
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    described = HubCorpus.open("samanantar")

    def corpus(src=SRC, tgt=TGT, files=None, **more):
        folder = tmp_path / "data/hi"
        folder.mkdir(parents=True)
        files = files or {"train-00000-of-00001.parquet": dict(src=src, tgt=tgt)}
        for name, content in files.items():
            if isinstance(content, pa.Table):
                pq.write_table(content, folder / name)
            elif isinstance(content, dict):
                pq.write_table(pa.table({column: arrow(values) for column, values in content.items()}), folder / name)
            else:
                (folder / name).write_bytes(content)
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
    "row 2: 'en' holds the end of a line": dict(src=[SRC[0], "a\nb", SRC[2]]),
    "row 2: 'en' holds the control character U.0000": dict(src=[SRC[0], "a\0", SRC[2]]),
    "row 2: 'hi' is empty, with nothing": dict(tgt=[TGT[0], "\u2800", TGT[2]]),
    "row 1: 'en' is bytes instead of UTF-8|UnicodeDecodeError: 'utf-8'": dict(src=NO_UTF8, tgt=["x"]),
}
BOTH, NUMBERS = dict(src=SRC, tgt=TGT), dict(src=[1, 2, 3])
DATES = b'{"src": "2024-01-01", "tgt": "2024-01-02"}\n\n{"src": "2024-01-03", "tgt": "2024-01-04"}\n'
BAD_FILES = {
    "1.parquet: column 'src' holds int64, and text": {"train-0.parquet": BOTH, "train-1.parquet": BOTH | NUMBERS},
    "1.parquet has no column 'tgt'": {"train-0.parquet": BOTH, "train-1.parquet": dict(src=SRC)},
    "row 1: 'en' is null": {"train-0.parquet": BOTH | dict(src=pa.nulls(3)), "train-1.parquet": BOTH},
    "there are no rows": {"train-0.parquet": {name: pa.array([], pa.string()) for name in BOTH}},
    "train-0.parquet is a pointer of Git LFS": {"train-0.parquet": b"version https://git-lfs.github.com/spec/v1\n"},
    "has no column 'tgt'": {"train.jsonl": b'{"src": "a"}\n'},
    "train.jsonl, line 2: 'src' is a number": {"train.jsonl": b'{"src": "a", "tgt": "x"}\n{"src": 7, "tgt": "x"}\n'},
    "train.jsonl, line 2: 'src' is a list": {"train.jsonl": b'{"src": "a", "tgt": "x"}\n{"src": [7], "tgt": "x"}\n'},
    "row 2: 'en' is null": {"train.jsonl": b'{"src": "a", "tgt": "x"}\n{"src": NaN, "tgt": "x"}\n'},
    "line 1: not JSON .'src' is given twice": {"train.jsonl": b'{"src": "a", "src": "b", "tgt": "x"}\n'},
    "line 1: not an object": {"train.jsonl": b'[{"src": "a", "tgt": "x"}]\n'},
    "train.jsonl is a pointer of Git LFS": {"train.jsonl": b"version https://git-lfs.github.com/spec/v1\n"},
    "cannot be read as UTF-8": {"train.jsonl": '{"src": "caf\u00e9", "tgt": "x"}\n'.encode("latin-1")},
    "half of a surrogate pair": {"train.jsonl": b'{"src": "\\ud83d", "tgt": "x"}\n'},
    "but hi/train.csv: write it as .parquet or .jsonl": {"train.csv": b"src,tgt\na,b\n"},
    "but hi/train.jsonl.gz: write it as": {"train.jsonl.gz": b""},
    "there are no rows in its": {"train.jsonl": b"\n"},
    "files in .jsonl and .parquet: keep one": {"train-0.parquet": BOTH, "train-1.jsonl": b""},
    "0.parquet has two columns 'src'": {"train-0.parquet": pa.table([SRC, SRC, TGT], names=["src", "src", "tgt"])},
}
GOOD_FILES = {
    "a column more": {"train-0.parquet": BOTH, "train-1.parquet": BOTH | dict(score=[1, 2, 3])},
    "an empty file": {"train-0.parquet": {name: pa.array([], pa.string()) for name in BOTH}, "train-1.parquet": BOTH},
    "string view": {"train-0.parquet": {name: pa.array(BOTH[name], pa.string_view()) for name in BOTH}},
    "dictionary": {"train-0.parquet": {name: pa.array(BOTH[name]).dictionary_encode() for name in BOTH}},
    "dates": {"train.jsonl": DATES},
}


@pytest.mark.parametrize("streaming", ["off", "on"])
@pytest.mark.parametrize("said", BAD_FILES)
def test_files_of_data_sets(hub, said, streaming):
    with pytest.raises(UserError, match=said):
        hub(files=BAD_FILES[said], streaming=streaming).train("hi-en", 9)


@pytest.mark.parametrize("streaming", ["off", "on"])
@pytest.mark.parametrize("kind", GOOD_FILES)
def test_equal_files_of_data_sets(hub, kind, streaming):
    pairs = hub(files=GOOD_FILES[kind], streaming=streaming).train("hi-en", 9)
    known = {"2024-01-01", "2024-01-03"} if kind == "dates" else set(SRC)
    assert set(pairs["target"]) == known and len(pairs) in (2, 3, 6)


FORMS = {
    "train.csv": b"src,tgt\na,b\n",
    "train.json": b'[{"src": "a", "tgt": "b"}]',
    "train.jsonl": b'{"src": "a", "tgt": "b"}',
}


@pytest.mark.parametrize("streaming", ["off", "on"])
@pytest.mark.parametrize("name", FORMS)
def test_files_that_a_card_names(hub, tmp_path, name, streaming):
    corpus = hub(files={name: FORMS[name]}, streaming=streaming)
    configs = f"- config_name: hi\n  data_files:\n  - split: train\n    path: hi/{name}\n"
    (tmp_path / "data/README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    assert corpus.train("hi-en", 9)[:] == dict(source=["b"], target=["a"])
    with pytest.raises(UserError, match="with a split 'test' .README.md names train"):
        dataclasses.replace(corpus, spec=corpus.spec | dict(train_split="test")).train("hi-en", 9)


@pytest.mark.parametrize("switch", SWITCHES)
def test_switches(hub, switch):
    corpus = hub()
    for word, state in (*ConfigParser.BOOLEAN_STATES.items(), ("No", False), (0, False), (True, True)):
        corpus.spec[switch] = word
        assert (switch in corpus.switches) == state
    corpus.spec[switch] = "none"
    with pytest.raises(UserError, match=f"{switch} = none: write 1 or 0"):
        corpus.train("hi-en")


@pytest.mark.parametrize("columns", ["src", "src src", "src tgt idx", ""])
def test_columns_to_train_on_are_two(hub, columns):
    with pytest.raises(UserError, match=f"train_columns = {columns}: name two columns"):
        hub(train_columns=columns).train("hi-en")


@pytest.mark.parametrize("streaming", [0, 1])
@pytest.mark.parametrize("said", BAD_COLUMNS)
def test_rows_of_data_sets(hub, said, streaming):
    corpus = hub(**BAD_COLUMNS[said], streaming=streaming)
    with pytest.raises(UserError, match=said):
        corpus.train("hi-en", 3)
    with pytest.raises(UserError, match=said):
        corpus.train("en-hi", 3, min_words=2, max_words=9)


@pytest.mark.parametrize("streaming", [0, 1])
def test_rows_without_text_can_be_left_out(hub, streaming, capsys):
    corpus = hub(src=[SRC[0], None, SRC[2]], tgt=[*TGT[:2], " "], streaming=streaming, drop_empty=1)
    assert corpus.train("en-hi", 3)["target"][:] == [TGT[0]]
    assert "2 of 3 rows are left out" in capsys.readouterr().err


@pytest.mark.parametrize("streaming", [0, 1])
@pytest.mark.parametrize("src, said", [(["", None, " "], "none of its 3 rows has a sentence"), (NO_UTF8, "(?i)utf-8")])
def test_nothing_is_left(hub, src, said, streaming):
    corpus = hub(src=src, tgt=TGT[:len(src)], drop_empty=1, streaming=streaming)
    with pytest.raises(UserError, match=said):
        corpus.train("en-hi", 3)


def test_no_pair_within_the_limits(hub):
    with pytest.raises(UserError, match="no pair of 50 to any number of words is left"):
        hub().train("en-hi", 3, min_words=50)


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


def with_ids(tmp_path, monkeypatch, english, hindi):
    "A test set of tables whose ids are given."
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    corpus = with_lines(tmp_path, "")
    for name, ids in (("eng_Latn", english), ("hin_Deva", hindi)):
        (tmp_path / f"flores/dev/{name}.jsonl").unlink()
        texts = [f"{name} {i}" for i in range(len(ids))]
        pq.write_table(pa.table(dict(id=ids, text=texts)), tmp_path / f"flores/dev/{name}.parquet")
    return corpus


@pytest.mark.parametrize("ids", [[0, 1], ["0", "1"], [0.0, 1.0], ["0 ", " 1"]])
def test_equal_ids(tmp_path, monkeypatch, ids):
    lines = with_ids(tmp_path, monkeypatch, [1, 0], ids).test("dev", "en-hi")
    assert dict(zip(lines.source, lines.target)) == {"eng_Latn 1": "hin_Deva 0", "eng_Latn 0": "hin_Deva 1"}


BAD_IDS = {
    "no id in common .the first id of en is '0', of hi '00'": ["00", "01"],
    "no id in common": [7, 8],
    "hin_Deva, dev, row 1: 'id' is a list": [[0], [1]],
    "hin_Deva, dev, row 1: 'id' is true or false": [True, False],
    "hin_Deva, dev, row 2: 'id' is empty": ["0", " "],
    "hin_Deva, dev, row 2: 'id' is null": [0, None],
    "hin_Deva, dev, row 1: 'id' is a number": [.5, 1.0],
    "hin_Deva, dev, row 2: id 'a' is used twice": ["a", "a "],
}


@pytest.mark.parametrize("said", BAD_IDS)
def test_ids_that_name_no_line(tmp_path, monkeypatch, said):
    with pytest.raises(UserError, match=said):
        with_ids(tmp_path, monkeypatch, [0, 1], BAD_IDS[said]).test("dev", "en-hi")


def test_lines_that_either_language_lacks_are_said(tmp_path, monkeypatch, capsys):
    corpus = with_ids(tmp_path, monkeypatch, [0, 1, 2], [0, 1, 3])
    assert len(corpus.test("dev", "en-hi")) == 2
    assert "2 in common ('2' is in en only, '3' in hi only)" in capsys.readouterr().err
    with pytest.raises(UserError, match="dev has no line of 9 to any number of words"):
        corpus.test("dev", "en-hi", 1, min_words=9)


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


NUMBERED = {
    "hi lacks train-00001-of-00002": ["train-00000-of-00002"],
    "hi lacks train-00000-of-00002": ["train-00001-of-00002"],
    "hi lacks train-00000-of-00003, train-00002-of-00003": ["train-00001-of-00003-ab12"],
    "lacks train-1-of-9, train-2-of-9, train-3-of-9, train-4-of-9, train-5-of-9 and 3 more": ["train-0-of-9"],
    "files of 00001 and of 00002": ["train-00000-of-00001", "train-00000-of-00002", "train-00001-of-00002"],
}


@pytest.mark.parametrize("card", [False, True])
@pytest.mark.parametrize("streaming", [0, 1])
@pytest.mark.parametrize("said", NUMBERED)
def test_a_part_of_a_download(hub, tmp_path, said, streaming, card):
    corpus = hub(files={f"{name}.parquet": BOTH for name in NUMBERED[said]}, streaming=streaming)
    if card:
        configs = "configs:\n- config_name: hi\n  data_files:\n  - split: train\n    path: hi/train-*\n"
        (tmp_path / "data/README.md").write_text(f"---\n{configs}---\n")
    with pytest.raises(UserError, match=said):
        corpus.train("hi-en", 3)


@pytest.mark.parametrize("names", [["train-1-of-2", "train-2-of-2"], ["train-00000-of-00002", "train-00001-of-00002"]])
def test_all_files_of_a_download(hub, names):
    assert len(hub(files={f"{name}.parquet": BOTH for name in names}).train("hi-en")) == 6


def card_with(number):
    return f"""---
dataset_info:
  config_name: hi
  splits:
  - name: train
    num_bytes: 10
    num_examples: {number}
configs:
- config_name: hi
  data_files:
  - split: train
    path: hi/train*
---
"""


@pytest.mark.parametrize("name, content", [("train.parquet", BOTH), ("train.jsonl", DATES + DATES[:43])])
def test_the_number_of_rows_that_a_card_says(hub, tmp_path, name, content):
    corpus = hub(files={name: content})
    (tmp_path / "data/README.md").write_text(card_with(3))
    assert len(corpus.train("hi-en")) == 3
    (tmp_path / "data/README.md").write_text(card_with(5))
    with pytest.raises(UserError, match="train has 3 rows and README.md says 5: download it again"):
        corpus.train("hi-en")


OTHER_CONFIGS = "---\nconfigs:\n- config_name: data\n  data_files: hi/*\n---\n"


@pytest.mark.parametrize("card", ["# My data\n", "---\nlanguage: [hi]\n---\n", OTHER_CONFIGS])
def test_a_card_that_does_not_name_the_configuration(hub, tmp_path, card):
    corpus = hub()
    (tmp_path / "data/README.md").write_text(card)
    assert len(corpus.train("hi-en")) == 3
    with pytest.raises(UserError, match="BuilderConfig 'ta' not found.*neither ta/train"):
        load_split(corpus.spec["train"], "ta", "train")


@pytest.mark.parametrize("card", ["configs: [", "language: no: x", "- a", "configs: 3"])
def test_a_card_that_cannot_be_read(hub, tmp_path, card):
    corpus = hub()
    (tmp_path / "data/README.md").write_text(f"---\n{card}\n---\n")
    with pytest.raises(UserError, match="README.md"):
        corpus.train("hi-en")


NESTED = {"train.parquet": dict(translation=[dict(en=a, hi=b) for a, b in zip(SRC, TGT)])}


@pytest.mark.parametrize("columns", ["en hi", "translation.en translation.hi", "translation hi"])
def test_a_column_that_holds_both_languages(hub, tmp_path, columns):
    corpus = hub(files=NESTED, train_columns=columns)
    with pytest.raises(UserError, match="'translation' holds several values .en, hi..*flatten"):
        corpus.train("hi-en")
    file = tmp_path / "data/hi/train.parquet"
    datasets.load_dataset("parquet", data_files=str(file))["train"].flatten().to_parquet(file)
    flat = dataclasses.replace(corpus, spec=corpus.spec | dict(train_columns="translation.en translation.hi"))
    assert set(flat.train("hi-en")["target"]) == set(SRC)


def test_what_save_to_disk_wrote(hub):
    corpus = hub()
    folder = corpus.spec["train"]
    for rows, one in ((datasets.Dataset.from_dict(BOTH), ""), (datasets.DatasetDict(), r"\['train'\]")):
        rows.save_to_disk(f"{folder}/ta")
        said = rf"was written by save_to_disk: .*{one}.to_parquet\('COPY/ta/train.parquet"
        with pytest.raises(UserError, match=said):
            load_split(folder, "ta", "train")


def test_another_split_is_named(hub):
    with pytest.raises(UserError, match="but hi/validation.parquet: name the split that is there .train_split"):
        hub(files={"validation.parquet": BOTH}).train("hi-en")


@pytest.mark.parametrize("path", ["~/nothing", "/none/copy", "./copy", "../copy", "C:\\data", "FILE"])
def test_a_folder_that_is_not_there(tmp_path, path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is no folder on this machine"):
        load_split(path.replace("FILE", str(tmp_path / "file")), "hi", "train")


OTHER_TABLES = {
    "line 1: not JSON .*: write one object a line": ("x.jsonl", b'[\n{"en": "a"},\n{"en": "b"}\n]\n'),
    "line 1: not an object, in braces: write one object a line": ("x.jsonl", b'[{"en": "a"}, {"en": "b"}]\n'),
    "line 1: not JSON .*: write one object a": ("x.jsonl", b'{\n "en": "a"\n}\n'),
    "x.jsonl, line 1: not JSON .*: write one object a": ("x.jsonl", b'[{"en": "a"},\n{"en": "b"}]\n'),
    "x.tsv is packed by gzip: unpack it": ("x.tsv", gzip.compress(b"en\thi\na\tb\n")),
    "its lines end in CR alone": ("x.tsv", b"en\thi\ra\tb\r"),
    "looks like UTF-16": ("x.tsv", "en\thi\na\tb\n".encode("utf-16")),
    "x.tsv, line 3: 'en' is quoted as in CSV.*QUOTE_NONE": ("x.tsv", b'en\thi\na\tb\n"He said ""yes"""\tc\n'),
    "line 2: 'en' is quoted": ("x.tsv", b'en\thi\n"""Yes"", he said"\tc\n'),
}


@pytest.mark.parametrize("said", OTHER_TABLES)
def test_tables_of_other_programs(tmp_path, said):
    name, content = OTHER_TABLES[said]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=said):
        read_table(tmp_path / name, ["en"])


def test_quotation_marks_that_are_of_the_sentence(tmp_path):
    texts = ['"Yes"', '"a" and "b"', 'Type "" here', '""', '"He said \'yes\'"', '""a""', 'ends in ""']
    (tmp_path / "x.tsv").write_text("en\thi\n" + "".join(f"{text}\tx\n" for text in texts))
    assert read_table(tmp_path / "x.tsv", ["en"]).en.tolist() == texts


def test_identifiers_and_a_language_called_id(tmp_path):
    (tmp_path / "train.en-id.tsv").write_text("en\tid\nYes\tYa\n")
    with pytest.raises(UserError, match="column of identifiers is called 'id', as a language is.*ind"):
        Corpus.open(tmp_path).train("en-id")


@pytest.mark.parametrize("name", ["c[12]", "a [x] b", "q*"])
def test_names_of_folders_are_no_patterns(tmp_path, name):
    "The copy that is named is read, not another that its name would fit as a pattern."
    for folder, text in ((name, "right"), ("c1", "wrong"), ("qq", "wrong")):
        (tmp_path / folder / "hi").mkdir(parents=True)
        pq.write_table(pa.table({"text": [text]}), tmp_path / folder / "hi/train-00000-of-00001.parquet")
    assert load_split(str(tmp_path / name), "hi", "train", ["text"])["text"] == ["right"]
    (tmp_path / name).rename(tmp_path / "a::b")
    with pytest.raises(UserError, match="rename"):
        load_split(str(tmp_path / "a::b"), "hi", "train", ["text"])
