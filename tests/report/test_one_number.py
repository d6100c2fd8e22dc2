"One number, one interval: what a table or numbers.json shows is what a result.json says."
import re
import shutil

import numpy as np
import pandas as pd
import pytest

from mmtmerge import metrics
from mmtmerge.core import read_json, root, write_json
from mmtmerge.report import claims_translation, layout, numbers
from mmtmerge.report.results import Results, find_translation
from mmtmerge.report.retention import kept_systems, retention_table
from mmtmerge.report.translation_tables import (
    LAYOUTS, columns, experts_table, rows, translation_table, without_expert_names)
from mmtmerge.settings import System, load
from mmtmerge.study.plan import plan
from mmtmerge.study.stages.mountdoom import evaluated

ENDS = ["score", "ci_low", "ci_high"]
WORDS = "open close file window save your password could not be found".split()


def said(study, system, direction, metric):
    "Score and interval of a system in a direction, as its run wrote them."
    result = read_json(study.result("translate", find_translation(study, system, direction)))
    made = result["result"]["directions"][direction]["scores"][metric]
    return [made[name] for name in ENDS]


def scores_of(study, systems, metric):
    return [said(study, system, d, metric)[0] for d, system in systems.items()]


def ratios_of(study, systems, metric):
    experts = {d: System(expert=d) for d in systems}
    pairs = zip(scores_of(study, systems, metric), scores_of(study, experts, metric))
    return [merged / expert if expert else np.nan for merged, expert in pairs]


def check_means(cell, values, digits):
    "An average and its range are those of the runs' numbers."
    assert cell.score == pytest.approx(np.mean(values), abs=digits, nan_ok=True)
    assert (cell.lowest, cell.highest) == pytest.approx((np.nanmin(values), np.nanmax(values)), abs=digits, nan_ok=True)


def check_translation(study, tidy, table, digits):
    "Every cell of one of Tables 1-4; returns how many."
    lines = rows(study, LAYOUTS[table].topology)
    for cell in tidy.itertuples():
        members = columns(study, lines[cell.system])[cell.direction]
        systems = {d: lines[cell.system][d] for d in members}
        if len(members) > 1 or cell.direction.startswith("average"):
            check_means(cell, scores_of(study, systems, cell.metric), digits)
        else:
            ours = [getattr(cell, name) for name in ENDS]
            assert ours == pytest.approx(said(study, *reversed(systems.popitem()), cell.metric), abs=digits)
    return len(tidy)


def check_experts(study, experts, digits):
    for row in experts.itertuples():
        own = said(study, System(expert=row.direction), row.direction, row.metric)
        base = said(study, System(), row.direction, row.metric)
        shown = [row.score, row.ci_low, row.ci_high, row.base, row.base_ci_low, row.base_ci_high]
        assert shown == pytest.approx(own + base, abs=digits)
        assert row.disjoint == (own[1] > base[2])


def check_retention(study, kept, digits):
    for cell in kept.itertuples():
        lines = kept_systems(study, cell.kind)[cell.system]
        systems = {d: lines[d] for d in columns(study, lines)[cell.direction]}
        values = ratios_of(study, systems, cell.metric)
        assert cell.score == pytest.approx(np.mean(values), abs=digits, nan_ok=True)
        if cell.direction.startswith("average"):
            check_means(cell, values, digits)


def check_text(study, tidy, table):
    "What a reader sees in the Markdown is the table's number and half of its interval."
    shown = tidy[tidy.metric.isin(["BLEU", "chrF2"])]
    text = layout.text_table(study, shown, "", [])
    score, low, high = (layout.wide(study, shown, name).round(2) for name in ENDS)
    cells = [line.split("|")[2:-1] for line in (study.tables / f"{table}.md").read_text().splitlines() if "±" in line]
    cells = [row for row in cells if row]
    for row, label in zip(cells, text.cells.index):
        for cell, column in zip(row, text.cells.columns):
            middle, half = re.match(r"\s*\**([\d.]+) ±([\d.]+)", cell).groups()
            assert middle == f"{score.loc[label, column]:.1f}"
            assert half == f"{(high.loc[label, column] - low.loc[label, column]) / 2:.1f}"


def invent(study, system, group, share):
    "A translation run whose rows are in no order of ids, scored as the translate stage scores."
    n, directions, frames = 12, {}, []
    weights = metrics.bootstrap_weights(n, study.p.bootstrap, study.p.seed)
    order = np.random.default_rng(7).permutation(n)
    for number, d in enumerate(study.directions_of(group)):
        draw = np.random.default_rng(number)
        refs = [" ".join(np.random.default_rng(i).choice(WORDS, 7)) for i in order]
        hyps = [" ".join(np.where(draw.random(7) < share, ref.split(), "x")) for ref in refs]
        stats = {f"stat_{m}": list(metrics.sentence_stats(m, hyps, refs).astype(float)) for m in metrics.METRICS}
        frames.append(pd.DataFrame(dict(direction=str(d), id=[f"s{i:02d}" for i in order]) | stats))
        directions[str(d)] = dict(scores=metrics.score(hyps, refs, weights), diagnosis={})
    path = study.result("translate", f"{system}__{group}")
    write_json(path, dict(result=dict(directions=directions)))
    pd.concat(frames, ignore_index=True).to_parquet(path.with_name("sentences.parquet"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "A study of two languages whose translations are invented."
    made = tmp_path_factory.mktemp("small")
    shutil.copy(root() / "settings.ini", made)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMTMERGE_ROOT", str(made))
        study = load("smoke")
        for number, (system, group) in enumerate(evaluated(study, study.methods)):
            invent(study, system, group, .4 + .5 * (number % 7) / 7)
    return made


@pytest.fixture
def small(folder, monkeypatch):
    monkeypatch.setenv("MMTMERGE_ROOT", str(folder))
    return load("smoke")


@pytest.mark.parametrize("table", LAYOUTS)
def test_tables_of_a_small_study(small, table):
    assert check_translation(small, translation_table(Results(small), table), table, 1e-9)


def test_experts_and_retention_of_a_small_study(small):
    check_experts(small, experts_table(Results(small)), 1e-9)
    check_retention(small, retention_table(Results(small)), 1e-9)


def test_findings_of_a_small_study_are_differences_of_its_tables(small):
    found = claims_translation.findings(Results(small))
    kept = retention_table(Results(small))
    means = kept[kept.direction.eq("average")].pivot(index=["metric", "system"], columns="kind", values="score")
    for row in found[(found.claim == "b") & (found.subject != "mean")].itertuples():
        shown = means.loc[(row.metric, row.subject)]
        assert row.value == pytest.approx(shown["many-to-one"] - shown["one-to-many"])


laptop = load("laptop")
committed = pytest.mark.skipif(not (laptop.out / "numbers.json").exists(), reason="the laptop study is not here")


def written(name):
    return pd.read_csv(laptop.tables / f"{name}.csv")


@committed
@pytest.mark.parametrize("table", LAYOUTS)
def test_tables_of_the_laptop_study(table):
    tidy = without_expert_names(laptop, written(table))
    assert check_translation(laptop, tidy, table, .00501) == len(tidy)
    check_text(laptop, tidy, table)


@committed
def test_experts_and_retention_of_the_laptop_study():
    check_experts(laptop, written("experts"), .00501)
    check_retention(laptop, written("retention"), .0000501)


@committed
def test_growth_of_the_laptop_study():
    grown = written("growth")
    early = grown[(grown.snapshot < 1) & ~grown.direction.str.startswith("average")]
    for row in early.itertuples():
        at = f"{row.snapshot:g}".removeprefix("0")
        expert = System(expert=row.direction, snapshot=at)
        merge = System(row.group, "task_arithmetic", snapshot=at)
        found = [said(laptop, system, row.direction, row.metric)[0] for system in (expert, merge)]
        assert [row.expert, row.merged] == pytest.approx(found, abs=1e-4)
        assert row.score == pytest.approx(row.merged / row.expert, abs=2e-4)
    average = grown[grown.direction == "average"].pivot(index=["snapshot", "metric"], columns="kind", values="score")
    gap = written("growth_gap").set_index(["snapshot", "metric"])
    difference = average["many-to-one"] - average["one-to-many"]
    assert gap.score.to_dict() == pytest.approx(difference.to_dict(), abs=2e-4)
    assert (gap.ci_low <= gap.score).all() and (gap.score <= gap.ci_high).all()


@committed
def test_confounds_of_the_laptop_study():
    for row in written("confounds").itertuples():
        merge = System(row.group, row.method, embeddings=row.embeddings)
        systems = dict.fromkeys(laptop.groups[row.group], merge)
        assert row.score == pytest.approx(np.mean(scores_of(laptop, systems, row.metric)), abs=1e-4)


@committed
def test_grid_of_the_laptop_study():
    points = written("grid")
    made = [p for g in laptop.groups for p in read_json(laptop.result("merge", g))["result"]["points"]]
    assert len(points) == len(made)
    for row, point in zip(points.itertuples(), made):
        last = point["rungs"][-1]
        found = last["sentences"], last["mean"], np.mean(list(last["chrf2"].values()))
        assert (row.sentences, row.bleu, row.chrf2) == pytest.approx(found, abs=.00501)


@committed
def test_claims_of_the_laptop_study():
    (path,) = laptop.runs.glob("report/*claims/result.json")
    made = pd.DataFrame(read_json(path)["result"]["claims"])
    shown = written("claims")
    numeric = ["paper", "value", "ci_low", "ci_high", "sensitivity_low", "sensitivity_high"]
    np.testing.assert_allclose(shown[numeric], made[numeric].astype(float), atol=5.1e-5)
    assert list(shown.verdict) == list(made.verdict)


@committed
def test_numbers_json_resolves():
    stored = read_json(laptop.out / "numbers.json")
    found = {name: entry["value"] for name, entry in stored["numbers"].items()}
    for name in ("deployment", "grid"):
        assert found[name] == read_json(laptop.out / stored["numbers"][name]["source"])["result"]
    sentences = read_json(laptop.out / stored["numbers"]["sentences"]["source"])["result"]["sentences"]
    assert found["sentences"] == sentences
    tuned = {d: read_json(laptop.result("finetune", d)) for d in laptop.directions}
    trained = numbers.training_numbers(tuned)
    assert all(found[name] == trained[name]["value"] for name in trained)
    scores = numbers.score_numbers(written("experts"), written("retention"))
    assert {name: found[name] for name in scores} == {name: entry["value"] for name, entry in scores.items()}


@committed
def test_costs_in_numbers_json_are_those_of_the_runs():
    stages = read_json(laptop.out / "numbers.json")["numbers"]["seconds"]["stages"]
    made = {}
    for run in plan(laptop):
        if run.folder != "report":
            made.setdefault(run.folder, []).append(read_json(run.result(laptop))["seconds"])
    for stage, seconds in made.items():
        assert stages[stage] == dict(runs=len(seconds), seconds=round(sum(seconds), 1))


@committed
def test_findings_in_numbers_json_are_those_of_the_table():
    stored = read_json(laptop.out / "numbers.json")["findings"]
    assert stored == numbers.records(written("findings"))
