"Copies with the layout and the columns of the hub's Samanantar, FLORES+ and IN22-Gen, made of the embedded corpus."
from pathlib import Path

import pandas as pd

from mmtmerge.corpus.embedded import Corpus

CODES = dict(en="eng_Latn", hi="hin_Deva", ta="tam_Taml")
REPOSITORIES = {
    "samanantar": "ai4bharat/samanantar",
    "flores_plus": "openlanguagedata/flores_plus",
    "in22": "ai4bharat/IN22-Gen",
}
CARDS = {  # configurations and splits, as the README.md of each repository names them
    "samanantar": (["hi", "ta"], ["train"]),
    "flores_plus": (CODES.values(), ["dev", "devtest"]),
    "in22": (["default"], ["test"]),
}


def write_card(folder, configs, splits):
    "What `hf download` leaves with the data: which files belong to a configuration and a split."
    lines = ["---", "configs:"]
    for config in configs:
        lines += [f"- config_name: {config}", "  data_files:"]
        for split in splits:
            lines += [f"  - split: {split}", f"    path: {config}/{split}-*"]
    (folder / "README.md").write_text("\n".join([*lines, "---", ""]))


def write_training(folder, language):
    "300 pairs in three files."
    pairs = Corpus.open("embedded").train(f"en-{language}", 300)
    rows = pd.DataFrame(dict(idx=range(300), src=pairs.source, tgt=pairs.target))
    (folder / language).mkdir(parents=True)
    for i in range(3):
        third = rows[100 * i : 100 * (i + 1)]
        third.to_parquet(folder / language / f"train-{i:05}-of-00003.parquet", index=False)


def test_lines(split, n):
    "A column a language."
    embedded = Corpus.open("embedded")
    hindi, tamil = (embedded.test(split, f"en-{language}", n) for language in ("hi", "ta"))
    return pd.DataFrame(dict(en=hindi.source, hi=hindi.target, ta=tamil.target))


test_lines.__test__ = False


def write_flores(folder, split, lines):
    "A file a language: one line of Tamil is missing, and Hindi is in another order."
    for language, code in CODES.items():
        side = pd.DataFrame(dict(id=range(len(lines)), iso_639_3=language, text=lines[language]))
        if language == "ta":
            side = side.drop(7)
        elif language == "hi":
            side = side.sample(frac=1, random_state=0)
        (folder / code).mkdir(parents=True, exist_ok=True)
        side.to_parquet(folder / code / f"{split}-00000-of-00001.parquet", index=False)


def write_copies(folder: Path, card=True):
    "300 training pairs a language, 40 + 50 lines of FLORES+, 10 lines of IN22."
    for language in ("hi", "ta"):
        write_training(folder / "samanantar", language)
    lines = dict(dev=test_lines("dev", 40), devtest=test_lines("devtest", 50))
    for split, rows in lines.items():
        write_flores(folder / "flores_plus", split, rows)
    (folder / "in22/default").mkdir(parents=True)
    first = lines["dev"][:10].rename(columns=CODES)
    first.to_parquet(folder / "in22/default/test-00000-of-00001.parquet", index=False)
    if card:
        for name, (configs, splits) in CARDS.items():
            write_card(folder / name, configs, splits)
    return folder


def use_copies(folder: Path, project: Path, devtest="flores_plus", **values):
    "Let the settings of a project name the copies; values of [corpus samanantar] that are given replace its own."
    ini = (project / "settings.ini").read_text()
    for name, repository in REPOSITORIES.items():
        ini = ini.replace(f"= {repository}", f"= {folder / name}")
    ini = ini.replace("languages = hi bn ta te\ntrain", "languages = hi ta\ntrain")
    ini = ini.replace("devtest = flores_plus\n", f"devtest = {devtest}\n")
    for key, value in values.items():
        assert f"{key} = 0" in ini
        ini = ini.replace(f"{key} = 0", f"{key} = {value}")
    (project / "settings.ini").write_text(ini)
