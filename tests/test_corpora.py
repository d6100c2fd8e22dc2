"Samanantar, FLORES+ and IN22-Gen from local copies with the layout and columns of the hub's."
import json, subprocess, sys
from pathlib import Path

import datasets
import pandas as pd
import pytest
from safetensors import safe_open

from conftest import REPO, environment, mmtmerge
from mmtmerge.corpus import hub as corpora
from mmtmerge.core import UserError
from mmtmerge.corpus.embedded import Corpus

CODES = dict(en="eng_Latn", hi="hin_Deva", ta="tam_Taml")


def copies(at: Path, card=True):
    "Copies made of the embedded corpus: 300 training pairs a language in three files, 40 + 50 test lines; one line of Tamil is missing, and Hindi is in another order."
    embedded = Corpus.open("embedded")
    for lang in ("hi", "ta"):
        pairs = embedded.train(f"en-{lang}", 300)
        (at / "samanantar" / lang).mkdir(parents=True)
        rows = pd.DataFrame(dict(idx=range(300), src=pairs.source, tgt=pairs.target))
        for i in range(3): rows[100 * i:100 * (i + 1)].to_parquet(at / "samanantar" / lang / f"train-{i:05}-of-00003.parquet", index=False)
    lines = {split: embedded.test(split, "en-hi", n).merge(embedded.test(split, "en-ta", n)[["id", "target"]], on="id", suffixes=("", "_ta")) for split, n in (("dev", 40), ("devtest", 50))}
    for lang, column in (("en", "source"), ("hi", "target"), ("ta", "target_ta")):
        folder = at / "flores_plus" / CODES[lang]
        folder.mkdir(parents=True)
        for split, rows in lines.items():
            side = pd.DataFrame(dict(id=range(len(rows)), iso_639_3=lang, text=rows[column]))
            side = side.drop(7) if lang == "ta" else side.sample(frac=1, random_state=0) if lang == "hi" else side
            side.to_parquet(folder / f"{split}-00000-of-00001.parquet", index=False)
    (at / "in22/default").mkdir(parents=True)
    pd.DataFrame({CODES[lang]: lines["dev"][column][:10] for lang, column in (("en", "source"), ("hi", "target"), ("ta", "target_ta"))}).to_parquet(at / "in22/default/test-00000-of-00001.parquet", index=False)
    if card:     # as `hf download` leaves them
        for name, configs, splits in (("samanantar", ("hi", "ta"), ("train",)), ("flores_plus", CODES.values(), ("dev", "devtest")), ("in22", ("default",), ("test",))):
            text = "---\nconfigs:\n" + "".join(f"- config_name: {c}\n  data_files:\n" + "".join(f"  - split: {s}\n    path: {c}/{s}-*\n" for s in splits) for c in configs) + "---\n"
            (at / name / "README.md").write_text(text)
    return at


def settings(at: Path, project: Path, more="", devtest="flores_plus"):
    ini = (project / "settings.ini").read_text()
    for repo, folder in (("ai4bharat/samanantar", "samanantar"), ("openlanguagedata/flores_plus", "flores_plus"), ("ai4bharat/IN22-Gen", "in22")): ini = ini.replace(f"= {repo}", f"= {at / folder}")
    ini = ini.replace("languages = hi bn ta te\ntrain", "languages = hi ta\ntrain")
    (project / "settings.ini").write_text(ini.replace("devtest = flores_plus\n", f"devtest = {devtest}\n").replace("drop_overlap = 0", more or "drop_overlap = 0"))


@pytest.fixture(params=[True, False], ids=["with card", "without"])
def paper(tmp_path, copy, monkeypatch, request):
    project = copy("corpora")
    settings(copies(tmp_path, request.param), project)
    monkeypatch.setenv("MMTMERGE_ROOT", str(project))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    return corpora.open_corpus("samanantar")


def test_training_pairs(paper):
    embedded = Corpus.open("embedded").train("en-hi", 300)
    pairs = paper.train("hi-en", 200, seed=1)
    assert len(pairs) == 200 and set(pairs.column_names) == {"source", "target"}
    assert set(zip(pairs["target"], pairs["source"])) <= set(zip(embedded.source, embedded.target))
    assert paper.train("hi-en", 200, seed=1)["source"][:5] == pairs["source"][:5] and paper.train("hi-en", 200, seed=2)["source"][:5] != pairs["source"][:5]
    assert all(2 <= len(t.split()) <= 4 for t in paper.train("hi-en", min_words=2, max_words=4)["target"])
    assert len(paper.train("en-ta", 10_000)) == 300     # what there is


def test_lines_are_joined_by_id(paper):
    embedded = Corpus.open("embedded").test("dev", "en-hi", 40)
    hi, ta = paper.test("dev", "en-hi"), paper.test("dev", "ta-en")
    assert len(hi) == 40 and len(ta) == 39
    assert dict(zip(hi.source, hi.target)) == dict(zip(embedded.source, embedded.target))
    assert set(ta.target) < set(hi.source)
    assert list(ta.id) == [i for i in hi.id if i in set(ta.id)]     # a missing line moves no other
    assert set(paper.test("dev", "ta-en", 10).id) <= set(hi.id[:11])


def streamed(at, copy, monkeypatch, name):
    project = copy(name)
    settings(copies(at), project)
    (project / "settings.ini").write_text((project / "settings.ini").read_text().replace("streaming = 0", "streaming = 1"))
    monkeypatch.setenv("MMTMERGE_ROOT", str(project))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", at / "cache")
    return corpora.open_corpus("samanantar")


def test_a_stream_gives_as_many_pairs_as_are_asked_for(tmp_path, copy, monkeypatch):
    "From all files; what was read once is not read again, but where the files changed."
    paper, embedded = streamed(tmp_path, copy, monkeypatch, "stream"), Corpus.open("embedded").train("en-hi", 300)
    pairs = paper.train("en-hi", 50, min_words=2)
    assert len(pairs) == 50 and set(zip(pairs["source"], pairs["target"])) <= set(zip(embedded.source, embedded.target))
    at = {pair: i for i, pair in enumerate(zip(embedded.source, embedded.target))}
    assert {at[pair] // 100 for pair in zip(pairs["source"], pairs["target"])} == {0, 1, 2}
    assert len(paper.train("hi-en", 90)) == 90 and len(set(paper.train("hi-en")["target"])) == len(set(embedded.source))     # without a number, all
    read = datasets.IterableDataset.__iter__
    monkeypatch.setattr(datasets.IterableDataset, "__iter__", lambda self: pytest.fail("the source is read again"))
    assert list(corpora.open_corpus("samanantar").train("en-hi", 50, min_words=2)["source"]) == list(pairs["source"])
    file = tmp_path / "samanantar/hi/train-00001-of-00003.parquet"
    pd.read_parquet(file).assign(src="new").to_parquet(file, index=False)
    monkeypatch.setattr(datasets.IterableDataset, "__iter__", read)
    assert "new" in corpora.open_corpus("samanantar").train("en-hi", 50)["source"]


@pytest.mark.parametrize("n", [1000, 230])
def test_an_interrupted_stream_continues(tmp_path, copy, monkeypatch, n):
    "After the last whole block, with the same rows in the same order; from files of different lengths, however many rows there are."
    paper = streamed(tmp_path, copy, monkeypatch, "interrupted")
    file = tmp_path / "samanantar/hi/train-00001-of-00003.parquet"
    pd.read_parquet(file)[:37].to_parquet(file, index=False)
    monkeypatch.setattr(corpora, "BLOCK", 20)
    whole, read, block = paper._training("hi", n).to_pandas(), [], corpora._block
    assert len(whole) == min(n, 237) and not whole.duplicated().any()
    import shutil
    shutil.rmtree(tmp_path / "cache")
    def killed(rows, schema, state, there):
        if len(read) == 4: raise KeyboardInterrupt
        block(rows, schema, state, there); read.append(there)
    monkeypatch.setattr(corpora, "_block", killed)
    with pytest.raises(KeyboardInterrupt): paper._training("hi", n)
    times = {there: (there / "rows.arrow").stat().st_mtime_ns for there in read}
    monkeypatch.setattr(corpora, "_block", block)
    assert paper._training("hi", n).to_pandas().equals(whole)
    assert times == {there: (there / "rows.arrow").stat().st_mtime_ns for there in read}


def test_errors_name_the_place(paper, monkeypatch):
    with pytest.raises(UserError, match="no configuration 'xxx'"): corpora.load_split(paper.spec["train"], "xxx", "train")
    with pytest.raises(UserError, match="no direction 'hi-ta'"): paper.train("hi-ta")
    with pytest.raises(UserError, match="unknown split 'test'"): paper.test("test", "en-hi")
    from datasets.exceptions import DatasetNotFoundError
    def gated(*a, **k): raise DatasetNotFoundError("Dataset 'openlanguagedata/flores_plus' is a gated dataset on the Hub.")
    monkeypatch.setattr(datasets, "load_dataset", gated)
    with pytest.raises(UserError, match="accept its terms at https://huggingface.co/datasets/openlanguagedata/flores_plus and log in"): corpora.load_split("openlanguagedata/flores_plus", "hin_Deva", "dev")


def test_a_second_test_set(tmp_path, copy, monkeypatch):
    project = copy("in22")
    settings(copies(tmp_path), project, devtest="in22_gen")
    monkeypatch.setenv("MMTMERGE_ROOT", str(project))
    paper = corpora.open_corpus("samanantar")
    assert len(paper.test("devtest", "en-hi")) == 10 and len(paper.test("dev", "en-hi")) == 40
    pairs, embedded = paper.test("devtest", "en-hi"), Corpus.open("embedded").test("dev", "en-hi", 40)
    assert set(zip(pairs.source, pairs.target)) == set(zip(embedded.source[:10], embedded.target[:10]))


@pytest.mark.parametrize("column, side", [("src", "source"), ("tgt", "target")])
def test_overlap_is_found_and_dropped(tmp_path, copy, monkeypatch, column, side):
    "On either side; counted by one process, dropped by two."
    at, project = copies(tmp_path), copy("overlap")
    line = max(Corpus.open("embedded").test("devtest", "en-hi", 50)[side], key=lambda s: len(s.split()))
    assert len(corpora.plain_words(line)) >= 13
    file = at / "samanantar/hi/train-00000-of-00003.parquet"
    rows = pd.read_parquet(file)
    rows.loc[0, column] = f"and then {line.upper()} so it ends"
    rows.to_parquet(file)
    settings(at, project)
    monkeypatch.setenv("MMTMERGE_ROOT", str(project))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    paper = corpora.open_corpus("samanantar")
    told = corpora.overlap(paper, ["en-hi"]).iloc[0]
    assert told.pairs == 300 and told.overlapping >= 1
    settings(at, project, "drop_overlap = 1")
    kept = corpora.open_corpus("samanantar", 2).train("en-hi")
    assert len(kept) == 300 - told.overlapping and not any(line.upper() in s for s in kept[side])


def test_runs_are_alike_in_every_process():
    words = ["a", "run", "of", "शब्द"] * 4
    said = subprocess.run([sys.executable, "-c", f"from mmtmerge.corpus.hub import runs; print(sorted(runs({words})))"], env=environment(REPO, PYTHONHASHSEED="7"), capture_output=True, text=True, check=True).stdout
    assert json.loads(said) == sorted(corpora.runs(words)) and len(corpora.runs(words)) == 4


def test_the_hash_follows_the_files(tmp_path, paper):
    before = paper.hash()
    file = next(Path(paper.spec["train"]).rglob("hi/*.parquet"))
    rows = pd.read_parquet(file)
    rows.loc[3, "tgt"] = "x"
    rows.to_parquet(file)
    assert (after := paper.hash()) != before
    kept = Path(paper.spec["train"]) / ".cache/huggingface/hi/train-00000.parquet.metadata"      # of `hf download --local-dir`
    kept.parent.mkdir(parents=True)
    kept.write_text("a date")
    assert paper.hash() == after
    text = Path(paper.spec["train"]) / "hi" / "notes.jsonl"
    text.write_text("a" * 200_000)
    one = paper.hash()
    text.write_text("a" * 100_000 + "b" + "a" * 99_999)     # in the middle, of the same length
    assert paper.hash() != one


def test_another_test_set_is_none_of_the_experts_business(tmp_path, copy, monkeypatch):
    "What was trained and selected stays good; where overlap with it is dropped, not."
    at, found = copies(tmp_path), []
    for name, devtest, more in (("a", "flores_plus", ""), ("b", "in22_gen", ""), ("c", "flores_plus", "drop_overlap = 1"), ("d", "in22_gen", "drop_overlap = 1")):
        project = copy(name)
        settings(at, project, more, devtest)
        monkeypatch.setenv("MMTMERGE_ROOT", str(project))
        found.append(corpora.open_corpus("samanantar"))
    a, b, c, d = found
    assert a.hash(("dev",)) == b.hash(("dev",)) and a.hash() != b.hash() and a.hash(("devtest",)) != b.hash(("devtest",))
    assert c.hash(("dev",)) != d.hash(("dev",)) and a.hash(("dev",)) != c.hash(("dev",))


def test_a_copy_with_a_folder_a_split(tmp_path):
    "A file of JSON lines a language below it, and no card."
    for split, words in (("dev", ["a", "b"]), ("devtest", ["c"])):
        (tmp_path / split).mkdir()
        for code in ("hin_Deva", "hin_Deva2"): (tmp_path / split / f"{code}.jsonl").write_text("".join(json.dumps(dict(id=i, text=code + w)) + "\n" for i, w in enumerate(words)))
    assert list(corpora.load_split(str(tmp_path), "hin_Deva", "dev")["text"]) == ["hin_Devaa", "hin_Devab"]
    assert list(corpora.load_split(str(tmp_path), "hin_Deva", "devtest")["text"]) == ["hin_Devac"]
    with pytest.raises(UserError, match="README.md of the hub's repository: copy it too"): corpora.load_split(str(tmp_path), "tam_Taml", "dev")


def test_smoke_runs_on_it(tmp_path, copy):
    "The study's own stages read such a corpus by a change of values only; as in the paper, every weight is bfloat16."
    project = copy("study")
    settings(copies(tmp_path), project)
    ini = project / "settings.ini"
    ini.write_text(ini.read_text().replace("[profile smoke]\n", "[profile smoke]\ncorpus = samanantar\n").replace("max_words = 8", "max_words = 0").replace("dtype = float32", "dtype = bfloat16"))
    for words in (("run", "base", "-p", "profile=smoke"), ("run", "finetune", "-p", "profile=smoke", "-p", "direction=en-hi"), ("run", "translate", "-p", "profile=smoke", "-p", "system=en-hi", "-p", "direction=en-indic")):
        said = mmtmerge(project, *words)
        assert said.returncode == 0, said.stderr
    assert json.loads((project / "outputs/smoke/runs/finetune/en-hi/result.json").read_text())["result"]["pairs"] == 96
    for at in ("base/base", "finetune/en-hi"):
        with safe_open(project / "outputs/smoke/runs" / at / "checkpoint/model.safetensors", "pt") as f: assert {f.get_slice(name).get_dtype() for name in f.keys()} == {"BF16"}
