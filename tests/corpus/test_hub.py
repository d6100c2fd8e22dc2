"Samanantar, FLORES+ and IN22-Gen from local copies with the layout and columns of the hub's."
import json
from pathlib import Path

import datasets
import pandas as pd
import pytest
from safetensors import safe_open

from conftest import mmtmerge
from hub_copies import use_copies, write_copies
from mmtmerge.core import UserError
from mmtmerge.corpus.embedded import Corpus
from mmtmerge.corpus.splits import load_split
from mmtmerge.corpus.open import open_corpus


def pairs_of(table):
    return set(zip(table["source"], table["target"]))


@pytest.fixture(params=[True, False], ids=["with card", "without"])
def paper(tmp_path, copy, monkeypatch, request):
    project = copy("corpora")
    use_copies(write_copies(tmp_path, request.param), project)
    monkeypatch.setenv("MMTMERGE_ROOT", str(project))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    return open_corpus("samanantar")


def test_training_pairs(paper):
    pairs = paper.train("hi-en", 200, seed=1)
    assert len(pairs) == 200 and set(pairs.column_names) == {"source", "target"}
    assert pairs_of(pairs) <= pairs_of(Corpus.open("embedded").train("hi-en", 300))
    assert paper.train("hi-en", 200, seed=1)["source"][:5] == pairs["source"][:5]
    assert paper.train("hi-en", 200, seed=2)["source"][:5] != pairs["source"][:5]
    short = paper.train("hi-en", min_words=2, max_words=4)
    assert all(2 <= len(text.split()) <= 4 for text in short["target"])


def test_fewer_pairs_than_asked_for_are_all(paper):
    assert len(paper.train("en-ta", 10_000)) == 300


def test_lines_are_joined_by_id(paper):
    embedded = Corpus.open("embedded").test("dev", "en-hi", 40)
    hi, ta = paper.test("dev", "en-hi"), paper.test("dev", "ta-en")
    assert len(hi) == 40 and len(ta) == 39
    assert pairs_of(hi) == pairs_of(embedded)
    assert set(ta.target) < set(hi.source)


def test_a_missing_line_moves_no_other(paper):
    hi, ta = paper.test("dev", "en-hi"), paper.test("dev", "ta-en")
    assert list(ta.id) == [i for i in hi.id if i in set(ta.id)]
    assert set(paper.test("dev", "ta-en", 10).id) <= set(hi.id[:11])


def test_errors_name_the_place(paper):
    with pytest.raises(UserError, match="no configuration 'xxx'"):
        load_split(paper.spec["train"], "xxx", "train")
    with pytest.raises(UserError, match="no direction 'hi-ta'"):
        paper.train("hi-ta")
    with pytest.raises(UserError, match="unknown split 'test'"):
        paper.test("test", "en-hi")


def test_gated_data_say_where_their_terms_are(monkeypatch):
    def gated(*args, **kwargs):
        message = "Dataset 'openlanguagedata/flores_plus' is a gated dataset on the Hub."
        raise datasets.exceptions.DatasetNotFoundError(message)

    monkeypatch.setattr(datasets, "load_dataset", gated)
    terms = "accept its terms at https://huggingface.co/datasets/openlanguagedata/flores_plus and log in"
    with pytest.raises(UserError, match=terms):
        load_split("openlanguagedata/flores_plus", "hin_Deva", "dev")


def test_a_second_test_set(tmp_path, copy, monkeypatch):
    project = copy("in22")
    use_copies(write_copies(tmp_path), project, devtest="in22_gen")
    monkeypatch.setenv("MMTMERGE_ROOT", str(project))
    paper = open_corpus("samanantar")
    embedded = Corpus.open("embedded").test("dev", "en-hi", 40)
    lines = paper.test("devtest", "en-hi")
    assert len(lines) == 10 and len(paper.test("dev", "en-hi")) == 40
    assert pairs_of(lines) == pairs_of(embedded[:10])


def test_the_hash_follows_the_files(paper):
    before, folder = paper.hash(), Path(paper.spec["train"])
    file = next(folder.rglob("hi/*.parquet"))
    rows = pd.read_parquet(file)
    rows.loc[3, "tgt"] = "x"
    rows.to_parquet(file)
    after = paper.hash()
    assert after != before
    kept = folder / ".cache/huggingface/hi/train-00000.parquet.metadata"  # of `hf download --local-dir`
    kept.parent.mkdir(parents=True)
    kept.write_text("a date")
    assert paper.hash() == after


def test_the_hash_reads_small_files_to_the_end(paper):
    text = Path(paper.spec["train"]) / "hi" / "notes.jsonl"
    text.write_text("a" * 200_000)
    before = paper.hash()
    text.write_text("a" * 100_000 + "b" + "a" * 99_999)
    assert paper.hash() != before


def test_another_test_set_is_none_of_the_experts_business(tmp_path, copy, monkeypatch):
    "What was trained and selected stays good; where overlap with it is dropped, not."
    folder = write_copies(tmp_path)

    def opened(name, devtest, drop_overlap):
        project = copy(name)
        use_copies(folder, project, devtest, drop_overlap=drop_overlap)
        monkeypatch.setenv("MMTMERGE_ROOT", str(project))
        return open_corpus("samanantar")

    flores, in22 = opened("a", "flores_plus", 0), opened("b", "in22_gen", 0)
    assert flores.hash(("dev",)) == in22.hash(("dev",))
    assert flores.hash() != in22.hash() and flores.hash(("devtest",)) != in22.hash(("devtest",))
    flores_dropped, in22_dropped = opened("c", "flores_plus", 1), opened("d", "in22_gen", 1)
    assert flores_dropped.hash(("dev",)) != in22_dropped.hash(("dev",))
    assert flores.hash(("dev",)) != flores_dropped.hash(("dev",))


def test_a_copy_with_a_folder_a_split(tmp_path):
    "A file of JSON lines a language below it, and no card."
    for split, words in (("dev", ["a", "b"]), ("devtest", ["c"])):
        (tmp_path / split).mkdir()
        for code in ("hin_Deva", "hin_Deva2"):
            rows = [json.dumps(dict(id=i, text=code + word)) for i, word in enumerate(words)]
            (tmp_path / split / f"{code}.jsonl").write_text("\n".join(rows) + "\n")
    assert list(load_split(str(tmp_path), "hin_Deva", "dev")["text"]) == ["hin_Devaa", "hin_Devab"]
    assert list(load_split(str(tmp_path), "hin_Deva", "devtest")["text"]) == ["hin_Devac"]
    with pytest.raises(UserError, match="README.md of the hub's repository: copy it too"):
        load_split(str(tmp_path), "tam_Taml", "dev")


@pytest.mark.slow
def test_smoke_runs_on_it(tmp_path, copy):
    "The study's own stages read such a corpus by a change of values only; as in the paper, every weight is bfloat16."
    project = copy("study")
    use_copies(write_copies(tmp_path), project)
    ini = (project / "settings.ini").read_text()
    ini = ini.replace("[profile smoke]\n", "[profile smoke]\ncorpus = samanantar\n")
    ini = ini.replace("max_words = 8", "max_words = 0").replace("dtype = float32", "dtype = bfloat16")
    (project / "settings.ini").write_text(ini)
    stages = (["base"], ["finetune", "direction=en-hi"], ["translate", "system=en-hi", "direction=en-indic"])
    for stage, *values in stages:
        words = ["run", stage]
        for value in ("profile=smoke", *values):
            words += ["-p", value]
        said = mmtmerge(project, *words)
        assert said.returncode == 0, said.stderr
    runs = project / "outputs/smoke/runs"
    assert json.loads((runs / "finetune/en-hi/result.json").read_text())["result"]["pairs"] == 96
    for key in ("base/base", "finetune/en-hi"):
        with safe_open(runs / key / "checkpoint/model.safetensors", "pt") as f:
            assert {f.get_slice(name).get_dtype() for name in f.keys()} == {"BF16"}


SECTIONS = {
    "drop_overlp is not read: did you mean 'drop_overlap'": ("drop_overlap = 0", "drop_overlp = 1"),
    "streming is not read: did you mean 'streaming'": ("streaming = 0", "streming = 1"),
    "split.test is not read: did you mean 'split.": ("split.devtest = devtest", "split.test = devtest"),
    "flores_plus. has no repo": ("repo = openlanguagedata/flores_plus\n", ""),
    "flores_plus. has no column": ("column = text\n", ""),
    "samanantar. has no languages": ("languages = hi bn ta te\ntrain =", "train ="),
    "samanantar. has no dev:": ("dev = flores_plus\n", ""),
    "samanantar. has no train_config": ("train_config = {code}\n", ""),
    "train_columns = : name two": ("train_columns = src tgt\n", ""),
}


@pytest.mark.parametrize("said", SECTIONS)
def test_keys_of_sections(copy, monkeypatch, said):
    project = copy("keys")
    ini = (project / "settings.ini").read_text()
    assert SECTIONS[said][0] in ini
    (project / "settings.ini").write_text(ini.replace(*SECTIONS[said], 1))
    monkeypatch.setenv("MMTMERGE_ROOT", str(project))
    with pytest.raises(UserError, match=said):
        open_corpus("samanantar")


def test_a_corpus_without_training_pairs(copy, monkeypatch):
    "It is opened, for its test sets, and says what it lacks."
    project = copy("untrained")
    ini = (project / "settings.ini").read_text()
    (project / "settings.ini").write_text(ini.replace("train = ai4bharat/samanantar\n", "", 1))
    monkeypatch.setenv("MMTMERGE_ROOT", str(project))
    with pytest.raises(UserError, match="samanantar. has no train: add it"):
        open_corpus("samanantar").train("hi-en")


@pytest.mark.parametrize("wrong", ["{code", "{}", "{0}", "{code.x}"])
def test_braces_that_name_nothing(copy, monkeypatch, wrong):
    project = copy("braces")
    ini = (project / "settings.ini").read_text()
    (project / "settings.ini").write_text(ini.replace("train_config = {code}", f"train_config = {wrong}", 1))
    monkeypatch.setenv("MMTMERGE_ROOT", str(project))
    with pytest.raises(UserError, match="cannot be filled in .*: write {code} or {flores}"):
        open_corpus("samanantar").train("hi-en")


def test_indonesian_is_called_as_identifiers_are(tmp_path, copy, monkeypatch):
    project = copy("indonesian")
    ini = (project / "settings.ini").read_text()
    described = "[language id]\nname = Indonesian\nscript = Latin\nflores = ind_Latn\n[language te]"
    ini = ini.replace("[language te]", described, 1)
    ini = ini.replace("languages = hi bn ta te\ntrain =", "languages = id\ntrain =", 1)
    (project / "settings.ini").write_text(ini.replace("openlanguagedata/flores_plus", str(tmp_path), 1))
    monkeypatch.setenv("MMTMERGE_ROOT", str(project))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "dev").mkdir()
    for code, texts in (("eng_Latn", ("Yes", "No")), ("ind_Latn", ("Ya", "Tidak"))):
        rows = [json.dumps(dict(id=f"n{i}", text=text)) for i, text in enumerate(texts)]
        (tmp_path / f"dev/{code}.jsonl").write_text("\n".join(rows) + "\n")
    lines = open_corpus("samanantar").test("dev", "en-id")
    assert sorted(lines.itertuples(index=False, name=None)) == [("n0", "Yes", "Ya"), ("n1", "No", "Tidak")]
