"Copies of the repository to work in, and the study's own command line run in them."
import json, os, re, shutil, subprocess, sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent


def tracked():
    "Files a fresh clone would have, and new ones not ignored."
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=REPO, check=True, capture_output=True, text=True)
    return [f for f in listed.stdout.split("\0") if f and (REPO / f).is_file()]


def copy_repository(to: Path, leave_out=("outputs/",)):
    for name in tracked():
        if not name.startswith(tuple(leave_out)):
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPO / name, to / name)
    return to


def environment(project: Path, **more):
    return os.environ | {"PYTHONPATH": str(project), "MMTMERGE_ROOT": str(project), "OMP_NUM_THREADS": "1"} | more


def mmtmerge(project: Path, *args, **kwargs):
    "Run the command line in a project; the result has returncode, stdout and stderr."
    return subprocess.run([sys.executable, "-m", "mmtmerge.cli", *args], cwd=project, env=environment(project), capture_output=True, text=True, **kwargs)


@pytest.fixture(autouse=True)
def environ(monkeypatch):
    "The process's own: datasets' map puts a copy in its place, from which what a test has set would not be taken back."
    monkeypatch.setattr(os, "environ", os.environ)


@pytest.fixture(scope="session")
def copy(tmp_path_factory):
    "Makes a copy of the repository under a name."
    return lambda name: copy_repository(tmp_path_factory.mktemp(name) / "project")


def write_notebook(path: Path, *cells, tag="parameters"):
    "A notebook of code cells, the first of them tagged."
    cells = [dict(cell_type="code", id=f"c{i}", metadata=dict(tags=[tag] if tag and not i else []), source=s, outputs=[], execution_count=None) for i, s in enumerate(cells)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(dict(cells=cells, metadata=dict(kernelspec=dict(name="python3", display_name="python3", language="python")), nbformat=4, nbformat_minor=5)))
    return path


START = "from mmtmerge import run\nfrom mmtmerge.settings import load, split_system\nstudy = load(profile)"
BLANK = {  # the stages without their models: same parameters, same files, no work
    "runs/20_base": ("profile = 'laptop'", START, "folder = study.result('base', 'base').parent\n(folder / 'checkpoint').mkdir(exist_ok=True)",
                     "run.finish('base', 'base', study, run.used(globals()), result={})"),
    "runs/21_finetune": ("profile = 'laptop'\ndirection = 'hi-en'\nseed = 42", START, "(study.result('finetune', direction).parent / 'checkpoint').mkdir(exist_ok=True)",
                         "run.finish('finetune', direction, study, run.used(globals()), result={}, inputs=[study.result('base', 'base')])"),
    "runs/22_merge": ("profile = 'laptop'\ngroup = 'indic-en'\nsnapshot = ''\nembeddings = ''", START, "key = group + (f'@{snapshot}' if snapshot else '') + (f'+{embeddings}' if embeddings else '')",
                      "for name in run.files_of(study, 'merge', dict(snapshot=snapshot)): (study.result('merge', key).parent / name).mkdir(exist_ok=True)",
                      "run.finish('merge', key, study, run.used(globals()), result={}, inputs=[study.result('finetune', d) for d in study.groups[group]])"),
    "runs/22a_deltas": ("profile = 'laptop'\ngroup = 'indic-en'", START, "for name in run.files_of(study, 'deltas', {}): (study.result('deltas', group).parent / name).write_text(group)",
                       "run.finish('deltas', group, study, run.used(globals()), result={}, inputs=[study.result('finetune', d) for d in study.groups[group]])"),
    "runs/23_translate": ("profile = 'laptop'\nsystem = 'base'\ndirection = 'indic-en'", START, "key = f'{system}__{direction}'\nmade = split_system(study, system)",
                          "(study.result('translate', key).parent / 'sentences.parquet').write_text(key)",
                          "run.finish('translate', key, study, run.used(globals()), result=dict(system=system), inputs=[study.result(made.stage, made.key)])"),
    "runs/24_probe": ("profile = 'laptop'\nsystem = 'base'\ndirection = 'indic-en'", START, "made = split_system(study, system)",
                      "run.finish('probe', f'{system}__{direction}', study, run.used(globals()), result={}, inputs=[study.result(made.stage, made.key)])"),
    "report/30_translation": ("profile = 'laptop'\ntable = 'table1'", START, "study.tables.mkdir(parents=True, exist_ok=True)\nout = study.tables / f'{table}.csv'",
                              "inputs = sorted(study.runs.glob('translate/*/result.json'))\nout.write_text('\\n'.join(p.parent.name for p in inputs))\nprint(out)",
                              "run.finish('report', f'30_translation-{table}', study, run.used(globals()), result={}, inputs=inputs, files=[out])"),
} | {f"report/{name}": ("profile = 'laptop'" + "\ngroup = 'indic-en'\nmethod = 'task_arithmetic'" * (name == "33_deployment"), START, f"run.finish('report', '{name}', study, run.used(globals()), result={{}})")
     for name in ("31_retention", "32_grid", "33_deployment", "34_growth", "35_numbers", "36_deltas", "37_confounds", "38_neurons", "39_usage", "40_geometry", "41_compatibility", "42_claims")}


@pytest.fixture
def blank(tmp_path):
    "The project with one language and blank notebooks: the whole runner and workflow, without models."
    project = copy_repository(tmp_path / "project", leave_out=("outputs/", "nbs/", "tests/"))
    settings = re.sub(r"(?m)^languages = .*$", "languages = hi", (project / "settings.ini").read_text())
    (project / "settings.ini").write_text(re.sub(r"(?m)^methods = .*$", "methods = task_arithmetic ties", settings))
    for name, cells in BLANK.items(): write_notebook(project / "nbs" / f"{name}.ipynb", *cells)
    return project
