"Names that are no text: refused before the work, with what to do, under every locale."

import os
import shutil
import subprocess
import sys

import pytest
from models_on_disk import MINI

from mmtmerge.core import root

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


@pytest.mark.parametrize("name, where, mend", [(HINDI, "C", "PYTHONUTF8=1"), (LATIN, "UTF-8", "rename it")])
def test_refused_before_the_work(tmp_path, name, where, mend):
    "As base, expert, output or in a mergekit file; nothing is made."
    shutil.copytree(MINI, tmp_path / "base")
    shutil.copytree(MINI, tmp_path / name)
    before = sorted(tmp_path.rglob("*"))
    ways = [("base", name, "out"), (name, "base", "out"), ("base", "base", f"{name}-out")]
    for base, expert, out in ways:
        folders = [f"--{what}={tmp_path / at}" for what, at in (("base", base), ("expert", expert), ("out", out))]
        assert mend in refused(where, "merge", "--method=linear", *folders)
    recording = ["probe", f"--model={tmp_path / name}", "--direction=en-hi", f"--out={tmp_path / 'recording'}"]
    assert mend in refused(where, *recording)
    assert mend in refused(where, "finetune", "en-hi", "--profile=smoke", f"--llama-factory={tmp_path / name / 'x'}")
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
