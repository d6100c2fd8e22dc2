"Results of several copies of the project, brought together or refused."
import json, shutil

import pytest

from conftest import BLANK, mmtmerge, write_notebook


def blank(copy, name, seed_base=None, values=()):
    "A copy whose runs do no work; its base is another's where one is given, its settings have other values."
    at = copy(name)
    ini = at / "settings.ini"
    for old, new in values:
        assert ini.read_text().count(f"\n{old}\n") == 1
        ini.write_text(ini.read_text().replace(f"\n{old}\n", f"\n{new}\n"))
    for stem, (params, *cells) in BLANK.items(): write_notebook(at / "nbs" / f"{stem}.ipynb", params, *cells)
    if seed_base: shutil.copytree(seed_base / "outputs/smoke/runs/base", at / "outputs/smoke/runs/base")
    else: assert mmtmerge(at, "run", "base", "-p", "profile=smoke").returncode == 0
    return at


def run(at, direction): assert mmtmerge(at, "run", "finetune", "-p", "profile=smoke", "-p", f"direction={direction}").returncode == 0


def test_two_machines(copy):
    here = blank(copy, "here")
    there = blank(copy, "there", here)
    run(here, "en-hi"); run(there, "en-ta")
    mine, other = (at / "outputs/smoke/runs/finetune/en-ta" for at in (here, there))
    (other / "checkpoint/model.safetensors").write_text("weights")
    result = json.loads((other / "result.json").read_text())
    (other / "result.json").write_text(json.dumps(result | {"versions": result["versions"] | {"torch": "0.1"}}))
    said = mmtmerge(here, "collect", "--profile", "smoke", str(there))
    assert said.returncode == 0, said.stderr
    assert "taken: finetune/en-ta" in said.stdout and "1 results taken, 1 were here already" in said.stdout
    assert said.stderr == f"note: torch was {result['versions']['torch']} for base/base, 0.1 for finetune/en-ta\n"
    assert (mine / "checkpoint/model.safetensors").samefile(other / "checkpoint/model.safetensors") and not (mine / "run.ipynb").samefile(other / "run.ipynb")     # weights are not copied
    assert (other / "run.lock").exists() and not (mine / "run.lock").exists()
    plan = mmtmerge(here, "rebuild", "--profile", "smoke", "--dry-run").stdout
    assert "finetune     2 to do,   2 reused" in plan
    again = mmtmerge(here, "collect", "--profile", "smoke", str(there / "outputs"))
    assert again.returncode == 0 and "0 results taken, 2 were here already" in again.stdout


def test_what_does_not_fit_is_refused(copy, tmp_path):
    here = blank(copy, "here")
    other = blank(copy, "other")     # its own base
    run(other, "en-ta")
    said = mmtmerge(here, "collect", "--profile", "smoke", str(other))
    assert said.returncode == 2 and "base/base was made twice" in said.stderr
    shutil.rmtree(other / "outputs/smoke/runs/base")
    said = mmtmerge(here, "collect", "--profile", "smoke", str(other))
    assert said.returncode == 2 and "rests on another base/base" in said.stderr
    file = other / "outputs/smoke/runs/finetune/en-ta/result.json"
    for what in ("code", "data", "settings"):
        text = json.loads(file.read_text())
        kept, text[what] = text[what], "0" * 64
        file.write_text(json.dumps(text))
        said = mmtmerge(here, "collect", "--profile", "smoke", str(other))
        assert said.returncode == 2 and f"made with other {what} (000000000000" in said.stderr
        file.write_text(json.dumps(text | {what: kept}))
    assert not (here / "outputs/smoke/runs/finetune").exists()
    said = mmtmerge(here, "collect", "--profile", "smoke", str(tmp_path))
    assert said.returncode == 2 and "holds no results of profile smoke" in said.stderr


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_float32_weights_beside_lower_ones_make_other_experts(copy, dtype):
    "Beside float32 ones they are nothing, and everything fits."
    values = [("dtype = float32", f"dtype = {dtype}"), ("master = 0", "master = 1")]
    here = blank(copy, "here", values=values[:1])
    there = blank(copy, "there", here, values)
    run(there, "en-ta")
    said = mmtmerge(here, "collect", "--profile", "smoke", str(there))
    if dtype == "float32": assert said.returncode == 0 and "taken: finetune/en-ta" in said.stdout, said.stderr
    else: assert said.returncode == 2 and "finetune/en-ta" in said.stderr and "made with other settings" in said.stderr, said.stdout


def test_one_direction_of_a_translation_and_of_a_probe(copy):
    "They are taken, and the rest of their group is made by direction; a group that has begun as one stays one."
    here = blank(copy, "here")
    there = blank(copy, "there", here)
    runs = [("translate", "en-ta"), ("probe", "en-ta"), ("translate", "ta-en")]
    for stage, direction in runs: assert mmtmerge(there, "run", stage, "-p", "profile=smoke", "-p", "system=base", "-p", f"direction={direction}").returncode == 0
    (here / "outputs/smoke/runs/translate/base__indic-en").mkdir(parents=True)
    said = mmtmerge(here, "collect", "--profile", "smoke", str(there))
    assert said.returncode == 0, said.stderr
    for stage, direction in runs: assert f"taken: {stage}/base__{direction}" in said.stdout
    plan = mmtmerge(here, "rebuild", "--profile", "smoke", "--dry-run").stdout.split()
    for stage in ("translate", "probe"): assert f"{stage}/base__en-hi" in plan and f"{stage}/base__en-indic" not in plan
    assert "translate/base__indic-en" in plan and "translate/base__hi-en" not in plan
    done = mmtmerge(here, "rebuild", "translate/base__en-hi", "--profile", "smoke", timeout=300)
    assert done.returncode == 0 and (here / "outputs/smoke/runs/translate/base__en-hi/result.json").exists(), done.stderr
    assert "nothing to do" in mmtmerge(here, "rebuild", "translate/base__en-ta", "--profile", "smoke").stdout
