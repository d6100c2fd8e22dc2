"Copies of the repository to work in, and the study's own command line run in them."
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mmtmerge.core import collect_seldom

collect_seldom()
REPO = Path(__file__).resolve().parent.parent


def tracked():
    "Files a fresh clone would have, and new ones not ignored."
    words = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(words, cwd=REPO, check=True, capture_output=True, text=True)
    return [f for f in listed.stdout.split("\0") if f and (REPO / f).is_file()]


def copy_repository(to: Path, leave_out=("outputs/",)):
    "A copy of the repository's files."
    for name in tracked():
        if not name.startswith(tuple(leave_out)):
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPO / name, to / name)
    return to


def environment(project: Path, **more):
    "The environment in which a project's own package is used."
    own = {"PYTHONPATH": str(project), "MMTMERGE_ROOT": str(project), "OMP_NUM_THREADS": "1"}
    return os.environ | own | more


def mmtmerge(project: Path, *args, **kwargs):
    "Run the command line in a project; the result has returncode, stdout and stderr."
    words = [sys.executable, "-m", "mmtmerge.cli", *args]
    return subprocess.run(words, cwd=project, env=environment(project), capture_output=True, text=True, **kwargs)


@pytest.fixture(autouse=True)
def environ(monkeypatch):
    "The process's own: datasets' map puts a copy in its place, from which what a test has set would not be taken back."
    monkeypatch.setattr(os, "environ", os.environ)


@pytest.fixture
def unread(monkeypatch):
    "No model may be read."

    def read(*args, **options):
        raise AssertionError("a model was read")

    monkeypatch.setattr("mmtmerge.engines.load_model", read)


@pytest.fixture(scope="session")
def copy(tmp_path_factory):
    "Makes a copy of the repository under a name."
    return lambda name: copy_repository(tmp_path_factory.mktemp(name) / "project")


def code_cell(number, source, tag=""):
    tags = dict(tags=[tag]) if tag else {}
    return dict(cell_type="code", id=f"c{number}", metadata=tags, source=source, outputs=[], execution_count=None)


def write_notebook(path: Path, *sources, tag="parameters"):
    "A notebook of code cells, the first of them tagged."
    cells = [code_cell(number, source, "" if number else tag) for number, source in enumerate(sources)]
    kernel = dict(name="python3", display_name="python3", language="python")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(dict(cells=cells, metadata=dict(kernelspec=kernel), nbformat=4, nbformat_minor=5)))
    return path


# A stage without its models: the parameters of the real notebook, the files that it declares, no work.
BEGIN = "from mmtmerge.study.runner import begin\nrun = begin(globals())"
FILES = """
for other in run.run.inputs(run.whole_study):
    run.note(other)
for name in run.stage.files(run.whole_study, run.used):
    (run.folder / name).mkdir(parents=True, exist_ok=True)
made = []
if run.run.folder == "report":
    made = [run.study.tables / f"{run.key}.csv"]
    made[0].parent.mkdir(parents=True, exist_ok=True)
    made[0].write_text("\\n".join(f"{stage}/{key}" for stage, key in sorted(run.read.values())))
    print(made[0])
"""
FINISH = "run.finish({}, files=made)"


def parameters_cell(notebook: Path) -> str:
    "Source of the cell tagged `parameters`."
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return next("".join(c["source"]) for c in cells if "parameters" in c["metadata"].get("tags", []))


def blank_cells(name: str) -> list:
    "The cells of a stage's blank notebook, by its path below nbs."
    return [parameters_cell(REPO / "nbs" / f"{name}.ipynb"), BEGIN, FILES, FINISH]


def blank_notebooks(project: Path):
    "Replace the notebooks of all stages by blank ones."
    from mmtmerge.study.declaration import stages
    for stage in stages().values():
        write_notebook(project / "nbs" / f"{stage.notebook}.ipynb", *blank_cells(stage.notebook))


def set_values(project: Path, *pairs):
    "Replace lines of settings.ini."
    path = project / "settings.ini"
    text = path.read_text(encoding="utf-8")
    for old, new in pairs:
        text, count = re.subn(f"(?m)^{old}$", new, text)
        assert count, old
    path.write_text(text, encoding="utf-8")


@pytest.fixture
def blank(tmp_path):
    "The project with one language and blank notebooks: the whole runner and workflow, without models."
    project = copy_repository(tmp_path / "project", leave_out=("outputs/", "nbs/lib/", "tests/"))
    set_values(project, ("languages = .*", "languages = hi"), ("methods = .*", "methods = task_arithmetic ties"))
    blank_notebooks(project)
    return project


LONG = (
    "tests/system/test_smoke",
    "tests/system/test_workflow",
    "tests/training/test_distributed",
    "tests/study/test_stages",
)


def pytest_collection_modifyitems(items):
    "The longest files first: what is left at the end is short, whichever worker takes it."
    def place(item):
        name = Path(str(item.fspath)).relative_to(REPO).as_posix()
        return next((i for i, long in enumerate(LONG) if name.startswith(long)), len(LONG))
    items.sort(key=place)
