"An installed package, with no project around it: what works anywhere, and what says that it needs the notebooks."
import os
import re
import shutil
import subprocess
import sys

import pytest

from conftest import REPO


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    "A folder with the package alone, as a wheel installs it."
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(REPO / "mmtmerge", folder / "mmtmerge", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture
def installed(site, tmp_path):
    "Runs the command line in an empty folder."
    env = {name: text for name, text in os.environ.items() if not name.startswith("MMTMERGE_")}
    env |= {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}

    def run(*words):
        command = [sys.executable, "-m", "mmtmerge.cli", *map(str, words)]
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)

    return run


def test_the_settings_are_one_file():
    packaged = REPO / "mmtmerge" / "data" / "settings.ini"
    assert packaged.read_bytes() == (REPO / "settings.ini").read_bytes()


def test_python_of_the_readme_runs_anywhere(site, tmp_path):
    (block,) = re.findall(r"```python\n(.*?)```", (REPO / "README.md").read_text(encoding="utf-8"), flags=re.S)
    env = {name: text for name, text in os.environ.items() if not name.startswith("MMTMERGE_")}
    env |= {"PYTHONPATH": str(site)}
    done = subprocess.run([sys.executable, "-c", block], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_names_are_listed(installed):
    done = installed("list")
    assert done.returncode == 0, done.stderr
    assert "hi-en" in done.stdout and "laptop" in done.stdout


@pytest.mark.parametrize("words", [("rebuild",), ("run", "finetune"), ("finetune", "en-hi"), ("collect", ".")])
def test_what_needs_the_notebooks_says_so(installed, words):
    done = installed(*words)
    assert done.returncode == 2
    assert f"mmtmerge {words[0]} needs the study's notebooks" in done.stderr


def test_a_folder_with_settings_of_ones_own(site, installed, tmp_path, monkeypatch):
    text = (REPO / "settings.ini").read_text(encoding="utf-8")
    (tmp_path / "settings.ini").write_text(text.replace("script = Telugu", "script = Kannada"))
    monkeypatch.setenv("MMTMERGE_ROOT", str(tmp_path))
    code = "from mmtmerge import load; print(load().language('te').script)"
    env = os.environ | {"PYTHONPATH": str(site)}
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.stdout.strip() == "Kannada", done.stderr
