"Results of several copies of the project, brought together or refused."

import json
import shutil

import pytest

from conftest import blank_notebooks, mmtmerge, set_values


def blank(copy, name, base_of=None, values=()):
    "A copy whose runs do no work; its base is another's where one is given, its settings have other values."
    at = copy(name)
    set_values(at, *values)
    blank_notebooks(at)
    if base_of:
        shutil.copytree(base_of / "outputs/smoke/runs/base", at / "outputs/smoke/runs/base")
    else:
        assert run(at, "base").returncode == 0
    return at


def run(at, stage, **params):
    words = ["run", stage, "-p", "profile=smoke"]
    for name, value in params.items():
        words += ["-p", f"{name}={value}"]
    return mmtmerge(at, *words)


def expert(at, direction):
    assert run(at, "finetune", direction=direction).returncode == 0
    return at / "outputs/smoke/runs/finetune" / direction


def collect(here, there):
    return mmtmerge(here, "collect", "--profile", "smoke", str(there))


def test_two_machines(copy):
    here = blank(copy, "here")
    there = blank(copy, "there", here)
    expert(here, "en-hi")
    other, mine = expert(there, "en-ta"), here / "outputs/smoke/runs/finetune/en-ta"
    (other / "checkpoint/model.safetensors").write_text("weights")
    result = json.loads((other / "result.json").read_text())
    (other / "result.json").write_text(json.dumps(result | dict(versions=result["versions"] | dict(torch="0.1"))))
    said = collect(here, there)
    assert said.returncode == 0, said.stderr
    assert "taken: finetune/en-ta" in said.stdout and "1 results taken, 1 were here already" in said.stdout
    assert said.stderr == f"note: torch was {result['versions']['torch']} for base/base, 0.1 for finetune/en-ta\n"
    assert (mine / "checkpoint/model.safetensors").samefile(
        other / "checkpoint/model.safetensors"
    )  # weights are not copied
    assert not (mine / "run.ipynb").samefile(other / "run.ipynb")
    assert (other / "run.lock").exists() and not (mine / "run.lock").exists()
    plan = mmtmerge(here, "rebuild", "--profile", "smoke", "--dry-run").stdout
    assert "finetune     2 to do,   2 reused" in plan
    again = collect(here, there / "outputs")
    assert again.returncode == 0 and "0 results taken, 2 were here already" in again.stdout


def test_what_does_not_fit_is_refused(copy, tmp_path):
    here = blank(copy, "here")
    other = blank(copy, "other")  # its own base
    file = expert(other, "en-ta") / "result.json"
    said = collect(here, other)
    assert said.returncode == 2 and "base/base was made twice" in said.stderr
    shutil.rmtree(other / "outputs/smoke/runs/base")
    said = collect(here, other)
    assert said.returncode == 2 and "rests on another base/base" in said.stderr
    whole = json.loads(file.read_text())
    for what in ("code", "data", "settings"):
        file.write_text(json.dumps(whole | {what: "0" * 64}))
        said = collect(here, other)
        assert said.returncode == 2 and f"made with other {what} (000000000000" in said.stderr
    assert not (here / "outputs/smoke/runs/finetune").exists()
    said = collect(here, tmp_path)
    assert said.returncode == 2 and "holds no results of profile smoke" in said.stderr


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_master_weights_make_other_experts(copy, dtype):
    "Next to float32 ones they are nothing, and everything fits."
    values = [("dtype = float32", f"dtype = {dtype}"), ("master = 0", "master = 1")]
    here = blank(copy, "here", values=values[:1])
    there = blank(copy, "there", here, values)
    expert(there, "en-ta")
    said = collect(here, there)
    if dtype == "float32":
        assert said.returncode == 0 and "taken: finetune/en-ta" in said.stdout, said.stderr
    else:
        assert (
            said.returncode == 2 and "finetune/en-ta" in said.stderr and "made with other settings" in said.stderr
        ), said.stdout


@pytest.mark.slow
def test_one_direction_of_a_translation_and_of_a_probe(copy):
    "They are taken, and the rest of their group is made by direction; a group that has begun as one stays one."
    here = blank(copy, "here")
    there = blank(copy, "there", here)
    runs = [("translate", "en-ta"), ("probe", "en-ta"), ("translate", "ta-en")]
    for stage, direction in runs:
        assert run(there, stage, system="base", direction=direction).returncode == 0
    (here / "outputs/smoke/runs/translate/base__indic-en").mkdir(parents=True)
    said = collect(here, there)
    assert said.returncode == 0, said.stderr
    for stage, direction in runs:
        assert f"taken: {stage}/base__{direction}" in said.stdout
    plan = mmtmerge(here, "rebuild", "--profile", "smoke", "--dry-run").stdout.split()
    for stage in ("translate", "probe"):
        assert f"{stage}/base__en-hi" in plan and f"{stage}/base__en-indic" not in plan
    assert "translate/base__indic-en" in plan and "translate/base__hi-en" not in plan
    done = mmtmerge(here, "rebuild", "translate/base__en-hi", "--profile", "smoke", timeout=300)
    assert done.returncode == 0 and (here / "outputs/smoke/runs/translate/base__en-hi/result.json").exists(), (
        done.stderr
    )
    assert "nothing to do" in mmtmerge(here, "rebuild", "translate/base__en-ta", "--profile", "smoke").stdout
