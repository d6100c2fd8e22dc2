"A language is added by files and settings alone."
from mmtmerge.core import root
from mmtmerge.corpus.embedded import Corpus
from mmtmerge.settings import load


def test_a_language_is_files_and_settings(tmp_path, monkeypatch):
    text = (root() / "settings.ini").read_text()
    text = text.replace("languages = hi bn ta te", "languages = hi bn ta te kn", 1)
    text = text.replace("[language te]", "[language kn]\nname = Kannada\nscript = Kannada\n[language te]", 1)
    (tmp_path / "settings.ini").write_text(text)
    (tmp_path / "nbs").mkdir()
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "train.en-kn.tsv").write_text("en\tkn\tsource\nOpen the file\tಕಡತವನ್ನು ತೆರೆ\tme\n")
    for split in ("dev", "devtest"):
        (folder / f"{split}.tsv").write_text("id\ten\tkn\tsource\n0\tClose the file\tಕಡತವನ್ನು ಮುಚ್ಚಿ\tme\n")
    monkeypatch.setenv("MMTMERGE_ROOT", str(tmp_path))
    study, corpus = load("laptop"), Corpus.open(folder)
    assert {"kn-en", "en-kn"} <= set(study.directions)
    assert study.groups["bi-kn"] == ["en-kn", "kn-en"] and "kn-en" in study.groups["indic-en"]
    assert study.instruction("en-kn") == "Translate the following English sentence to Kannada"
    assert corpus.train("kn-en").target.tolist() == ["Open the file"]
    assert corpus.test("dev", "en-kn").target.tolist() == ["ಕಡತವನ್ನು ಮುಚ್ಚಿ"]
