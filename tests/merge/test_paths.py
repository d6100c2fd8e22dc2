"Names that are no text: refused before the work, with what to do, under every locale."

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from models_on_disk import MINI

from mmtmerge import cli
from mmtmerge.core import UserError, cache_dir, root
from mmtmerge.merge.checkpoints import merge_checkpoints

HINDI, LATIN = "मॉडल", os.fsdecode(b"mod\xe8le")
LOCALES = {
    "C": dict(LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0"),
    "UTF-8": dict(LC_ALL="C.UTF-8"),
}


def command(where, *words):
    "What the command line says: (status, stdout, stderr)."
    start = "import sys; from mmtmerge.cli import main; sys.argv[0] = 'mmtmerge'; main()"
    environment = os.environ | LOCALES[where] | dict(TQDM_DISABLE="1", PYTHONPATH=str(root()))
    for name in {"PYTHONUTF8"} - LOCALES[where].keys():
        environment.pop(name, None)
    run = subprocess.run([sys.executable, "-c", start, *map(str, words)], env=environment, capture_output=True)
    return run.returncode, run.stdout.decode("utf-8", "replace"), run.stderr.decode("utf-8", "replace")


def refused(where, *words):
    status, _, said = command(where, *words)
    assert status == 2 and said.startswith("error: ") and "Traceback" not in said, said
    return said


@pytest.mark.parametrize("name, where, advice", [(HINDI, "C", "PYTHONUTF8=1"), (LATIN, "UTF-8", "rename it")])
def test_refused_before_the_work(tmp_path, name, where, advice):
    "As base, expert, output or in a mergekit file; nothing is made."
    shutil.copytree(MINI, tmp_path / "base")
    shutil.copytree(MINI, tmp_path / name)
    before = sorted(tmp_path.rglob("*"))
    ways = [("base", name, "out"), (name, "base", "out"), ("base", "base", f"{name}-out")]
    for base, expert, out in ways:
        folders = [f"--{what}={tmp_path / at}" for what, at in (("base", base), ("expert", expert), ("out", out))]
        assert advice in refused(where, "merge", "--method=linear", *folders)
    recording = ["probe", f"--model={tmp_path / name}", "--direction=en-hi", f"--out={tmp_path / 'recording'}"]
    assert advice in refused(where, *recording)
    assert advice in refused(where, "finetune", "en-hi", "--profile=smoke", f"--llama-factory={tmp_path / name / 'x'}")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_file_that_names_such_a_folder(tmp_path):
    "The mergekit file is UTF-8, the locale is not."
    shutil.copytree(MINI, tmp_path / HINDI)
    file = tmp_path / "merge.yml"
    text = f"merge_method: passthrough\nmodels: [{{model: {tmp_path / HINDI}}}]\n"
    file.write_text(text, encoding="utf-8")
    words = ["merge", f"--config={file}", f"--out={tmp_path / 'out'}"]
    assert "PYTHONUTF8=1" in refused("C", *words)
    status, _, said = command("UTF-8", *words)
    assert status == 0, said
    assert HINDI in (tmp_path / "out/README.md").read_text(encoding="utf-8")


def test_a_strange_file_beside_the_weights(tmp_path):
    "It is named on the card as far as text can, and the merge ends well."
    shutil.copytree(MINI, tmp_path / "base")
    (tmp_path / "base" / LATIN).write_text("x")
    words = ["merge", "--method=linear", "--preset=mergekit"]
    words += [f"--{what}={tmp_path / at}" for what, at in (("base", "base"), ("expert", "base"), ("out", "out"))]
    status, _, said = command("UTF-8", *words)
    assert status == 0, said
    assert "\\udce8" in (tmp_path / "out/README.md").read_text(encoding="utf-8")


@pytest.fixture
def said(tmp_path, monkeypatch, capsys):
    "Runs the command in a folder with models base and a: status, and what it printed."
    for name in ("base", "a"):
        shutil.copytree(MINI, tmp_path / name)
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["mmtmerge", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return end.value.code or 0, capsys.readouterr()

    return run


MERGE = ["merge", "--method=linear", "--base=base", "--expert=a"]
WAYS = {
    "merge": [*MERGE, "--out"],
    "of a file": ["merge", "--config=merge.yml", "--out"],
    "repair": ["repair", "--base=base", "--expert=en-hi=a", "--out"],
    "expert of repair": ["repair", "--base=base", "--out=out", "--expert", "en-hi="],
    "expand": ["expand", "base", "en-hi"],
    "probe": ["probe", "--model=base", "--direction=en-hi", "--out"],
    "corpus of probe": ["probe", "--model=base", "--direction=en-hi", "--out=out", "--corpus"],
    "translate": ["translate", "base", "en-hi", "--out"],
    "language": ["language", "add", "kn", "--name=Kannada", "--dev=file", "--devtest=file", "--train"],
}


@pytest.mark.parametrize("place, why", [("circle", "links lead in a circle"), ("file", "is a file, not a folder")])
@pytest.mark.parametrize("words", WAYS.values(), ids=list(WAYS))
def test_where_nothing_can_be(said, tmp_path, words, place, why):
    before = sorted(tmp_path.iterdir())
    *words, last = words
    last = [last, f"{place}/x"] if not last.endswith("=") else [f"{last}{place}/x"]
    status, shown = said(*words, *last)
    assert status == 2 and why in shown.err and shown.err.count("\n") == 1, shown.err
    assert sorted(tmp_path.iterdir()) == before
    with pytest.raises(UserError, match=why):
        merge_checkpoints("base", "a", f"{place}/x", "linear")


def test_the_home_folder(said, tmp_path, monkeypatch):
    "By options with and without an equals sign, in the environment, and in a mergekit file."
    (tmp_path / "merge.yml").write_text("merge_method: passthrough\nmodels: [{model: ~/a}]\n")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("MMTMERGE_CACHE", os.environ.get("MMTMERGE_CACHE") or str(cache_dir()))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert said("merge", "--method=linear", "--base=~/base", "--expert", "~/a", "--out=~/x/y")[0] == 0
    assert said("merge", "--config=~/merge.yml", "--out=~/x/z")[0] == 0
    words = ["--model=~/base", "--direction=en-hi", "--out=~/x/y"]
    assert f"{tmp_path}/x/y exists already" in said("probe", *words)[1].err
    words = ["--base=~/base", "--expert=en-hi=~/nothing", "--trunk=base", "--out=~/x/w"]
    assert f"{tmp_path}/nothing is no folder" in said("repair", *words)[1].err
    monkeypatch.setenv("MMTMERGE_CACHE", "~/cache")
    assert cache_dir() == tmp_path / "cache"
    assert {path.name for path in (tmp_path / "x").iterdir()} == {"y", "z"}
    assert not list(Path().iterdir())


@pytest.mark.parametrize("name", ["म" * 85, "a" * 255], ids=["Hindi", "Latin"])
def test_a_long_name(said, tmp_path, name):
    "What stands beside the result while it is written fits, too."
    before = set(tmp_path.iterdir())
    status, shown = said(*MERGE, "--out", name)
    assert status == 0, shown.err
    assert set(tmp_path.iterdir()) - before == {tmp_path / name}
    assert said(*MERGE, "--out", name + "a")[0] == 2
