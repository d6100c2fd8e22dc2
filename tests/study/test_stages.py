"Declarations: a new stage is its notebook and one of them; its digests cover what it declares, and nothing else."

import json
import re

import pytest

from conftest import BEGIN, blank_cells, mmtmerge, set_values, write_notebook
from mmtmerge.core import root
from mmtmerge.settings import load, settings_digest
from mmtmerge.study.provenance import modules_behind, imported, without_prose
from mmtmerge.study.notebook_parameters import code_cells
from mmtmerge.study.declaration import stages

TOY = """
from mmtmerge.study.declaration import Stage, report
from mmtmerge.study.stages.mountdoom import expert, one_direction


def the_expert(study, params):
    return [expert(study, params["direction"])]


def a_number(study, params):
    return ["number.txt"]


COUNT = Stage("count", "runs/toy/count", settings="seed", named_by=dict(direction=one_direction),
              inputs=the_expert, files=a_number)


def counts(study, params):
    return [COUNT.run(direction=d) for d in study.directions]


STAGES = [COUNT, report("toy", counts, ("toy",))]
"""
COUNT = """
(run.folder / 'number.txt').write_text(str(run.study.p.seed))
run.checkpoint(direction)
run.finish(dict(seed=run.study.p.seed))
"""
REPORT = """
seeds = [run.results.read("count", str(d))["result"]["seed"] for d in run.study.directions]
out = run.study.tables / "toy.csv"
out.parent.mkdir(parents=True, exist_ok=True)
out.write_text(str(seeds))
run.finish(dict(seeds=seeds), files=[out])
"""


def test_a_new_stage_is_its_notebook_and_one_declaration(blank):
    (blank / "mmtmerge/study/stages/toy.py").write_text(TOY)
    write_notebook(blank / "nbs/runs/toy/count.ipynb", "profile = 'laptop'\ndirection = 'en-hi'", BEGIN, COUNT)
    write_notebook(blank / "nbs/report/toy.ipynb", "profile = 'laptop'", BEGIN, REPORT)
    plan = mmtmerge(blank, "rebuild", "toy", "--profile", "smoke", "--dry-run").stdout
    assert [line.split()[:2] for line in plan.splitlines() if "to do," in line] == [
        ["base", "1"],
        ["finetune", "2"],
        ["count", "2"],
        ["report", "1"],
    ]
    done = mmtmerge(blank, "rebuild", "toy", "--profile", "smoke", "--cores", "2", timeout=300)
    assert done.returncode == 0, done.stderr
    assert (blank / "outputs/smoke/tables/toy.csv").read_text() == "[42, 42]"
    made = json.loads((blank / "outputs/smoke/runs/count/en-hi/result.json").read_text())
    assert list(made["inputs"]) == ["runs/finetune/en-hi/result.json"] and made["files"] == [
        "runs/count/en-hi/number.txt"
    ]
    assert "count" in mmtmerge(blank, "list").stdout
    refused = mmtmerge(blank, "run", "count", "-p", "profile=smoke", "-p", "direction=en-xx")
    assert refused.returncode == 2 and "unknown direction 'en-xx'" in refused.stderr
    set_values(blank, ("seed = 42", "seed = 43"))
    assert "settings changed" in mmtmerge(blank, "rebuild", "toy", "--profile", "smoke", "--dry-run").stdout


def behind(stage):
    "The modules that the notebook of a stage rests on."
    cells = "\n".join("".join(c["source"]) for c in code_cells(stage.path))
    return set(modules_behind(imported(without_prose(cells))))


REPAIRS = {"repair-dev", "repair-test", "repair-trained"}
MODELS = ["base", "finetune", "merge", "deltas", "translate", "probe", *sorted(REPAIRS)]


@pytest.mark.parametrize("name", MODELS)
def test_no_report_command_line_or_study_is_behind_a_model(name):
    "So that editing them makes no expert out of date."
    rooms = {module.split(".")[0] for module in behind(stages()[name])}
    assert not rooms & {"report", "cli", "study"}, rooms


def test_other_rooms_make_no_expert_out_of_date():
    assert not {m.split(".")[0] for m in behind(stages()["finetune"])} & {"merge", "probe", "metrics", "engines"}


def edit(path, old, new):
    text = path.read_text()
    assert old in text, path
    path.write_text(text.replace(old, new, 1))


def test_edits_make_those_stale_that_rest_on_them(blank):
    assert mmtmerge(blank, "run", "base", "-p", "profile=smoke").returncode == 0

    def plan():
        return mmtmerge(blank, "rebuild", "base", "--profile", "smoke", "--dry-run").stdout

    for name in ("cli.py", "report/results.py", "study/runner.py", "study/stages/mountdoom.py", "merge/apply.py"):
        with open(blank / "mmtmerge" / name, "a") as module:
            module.write("\nADDED = 1\n")
    assert "nothing to do" in plan()
    edit(blank / "nbs/runs/mountdoom/base.ipynb", "run.finish({}", "run.finish(dict(a=1)")
    assert "code changed" in plan()


@pytest.mark.parametrize(
    "key, value, good",
    [
        ("test_lines", 7, {"base", "finetune", "merge", "deltas", "probe", *REPAIRS}),
        ("grid_engine", "vllm", {"base", "finetune", "deltas", "translate", "probe"}),
        ("lr", 1.0, {"base", "merge", "deltas", "translate", "probe", *REPAIRS}),
        ("neuron_rho", 0.2, {"base", "finetune", "merge", "deltas", "translate", "probe", *REPAIRS}),
        ("decode_batch", 7, {"base", "finetune", "deltas", "probe"}),
        ("repair_lams", [7], {"base", "finetune", "merge", "deltas", "translate", "probe"}),
    ],
)
def test_a_value_makes_those_stale_that_declare_it(key, value, good):
    "Those that rest on others follow through their inputs."
    other, same = load("laptop"), load("laptop")
    setattr(other.p, key, value)
    models = {s.name: s.settings for s in stages().values() if s.folder != "report"}
    assert {
        s for s, names in models.items() if settings_digest(other, names) == settings_digest(same, names)
    } == good


def test_no_number_in_a_file_name_is_read():
    names = [p.stem for p in (root() / "nbs").rglob("*.ipynb")]
    assert not [n for n in names if re.match(r"\d", n)]


@pytest.mark.slow
def test_results_of_other_code_are_accepted_by_name_only(blank):
    "After a refactoring: same settings and data, another code digest. Reports say what they rest on."
    rebuild = ["rebuild", "report/grid", "--profile", "smoke", "--cores", "2"]
    assert mmtmerge(blank, *rebuild, timeout=600).returncode == 0
    folder = blank / "outputs/smoke/runs/finetune"
    for path in folder.glob("*/result.json"):
        made = json.loads(path.read_text())
        path.write_text(json.dumps(made | dict(code="0" * 64, versions=made["versions"] | dict(mmtmerge="0.1.0"))))
    times = {p: p.stat().st_mtime_ns for p in folder.glob("*/result.json")}
    assert "code changed" in mmtmerge(blank, *rebuild, "--dry-run").stdout
    done = mmtmerge(blank, *rebuild, "--accept-code", timeout=600)
    assert done.returncode == 0, done.stderr
    assert {p: p.stat().st_mtime_ns for p in times} == times
    report = json.loads((blank / "outputs/smoke/runs/report/grid/result.json").read_text())
    assert {(e["run"], e["version"]) for e in report["accepted"]} == {
        ("finetune/en-hi", "0.1.0"),
        ("finetune/hi-en", "0.1.0"),
    }
    shown = (blank / "outputs/smoke/report/grid.ipynb").read_text()
    assert "rests on finetune/en-hi, made by other code (mmtmerge 0.1.0" in shown
    path = folder / "en-hi/result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | dict(settings="1" * 64)))
    refused = mmtmerge(blank, *rebuild, "--accept-code")
    assert refused.returncode == 2 and "finetune/en-hi cannot be accepted: settings changed" in refused.stderr


def test_blank_cells_have_the_parameters_of_the_real_ones():
    assert blank_cells("runs/mountdoom/finetune")[0].splitlines()[1] == 'direction = "hi-en"'
