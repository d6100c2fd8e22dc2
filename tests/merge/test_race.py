"""The race against the whole grid, on recorded scores.

`data/grid-bi-hi.jsonl.xz` is what the stage `merge` (profile laptop, group bi-hi) kept of a sweep in which nothing
left: every point of both grids on the same 64 dev sentences a direction. It was recorded with experts of an earlier
laptop study, and this profile's rungs and share were chosen on it.
"""

import json
import lzma
from pathlib import Path

import numpy as np
import pytest
import torch

from mmtmerge import metrics, settings
from mmtmerge.merge.grid_search import Sweep, points, race

RECORDED = Path(__file__).parent.parent / "data" / "grid-bi-hi.jsonl.xz"


def sweep_of(tmp_path, study, rungs):
    "A sweep that has measured everything before (lam .05 came later), at these rungs; translating again is an error."

    def never(*_):
        raise AssertionError("nothing is translated: all is recorded")

    score = {name: (None, lambda s, name=name: metrics.corpus_score(name, s)) for name in ("BLEU", "chrF2")}
    base = {name: torch.zeros(1, 1) for name in ("embed_tokens.weight", "w")}  # none is merged
    grid, file = (
        {
            g: {m: {k: [x for x in values if x != 0.05] for k, values in of.items()} for m, of in study.grid[g].items()}
            for g in ("paper", "extended")
        },
        tmp_path / f"grid-{'-'.join(map(str, rungs))}.jsonl",
    )

    def sweep(kept=None):
        return Sweep(
            torch.nn.Linear(1, 1),
            base,
            {d: base for d in study.groups["bi-hi"]},
            points(grid, study.methods),
            never,
            {d: [""] * rungs[-1] for d in study.groups["bi-hi"]},
            score,
            rungs,
            kept=kept,
        )

    with lzma.open(RECORDED, "rt", encoding="utf-8") as recorded, open(file, "w", encoding="utf-8") as out:
        out.write(json.dumps(dict(inputs=sweep().inputs)))
        for seen in map(json.loads, recorded):
            method, embeddings, structural = json.loads(seen["structure"])
            if method == "ties":
                seen["structure"] = json.dumps(
                    [method, embeddings, dict(structural, merge_func="sum")], sort_keys=True
                )  # which had no name in the grid then
            for first, last in zip([0, *rungs], rungs):
                part = {d: {m: s[first:last] for m, s in by.items()} for d, by in seen["stats"].items()}
                out.write("\n" + json.dumps(dict(seen, first=first, stats=part)))
    return sweep(file)


@pytest.fixture(scope="module")
def study():
    return settings.load("laptop")


@pytest.fixture
def whole(tmp_path, study):
    "Every point on all sentences of the last rung: (method, grid) -> best point; (method, grid, hyper) -> its score."
    sweep = sweep_of(tmp_path, study, study.p.rungs[-1:])
    best = race(sweep.contestants, sweep.score, 1, 1.0)
    return best, {(p.method, p.grid, json.dumps(p.hyper)): p.mean for p in sweep.contestants}


def test_race_picks_the_winners_of_the_whole_grid(tmp_path, study, whole):
    best, scores = whole
    sweep = sweep_of(tmp_path, study, study.p.rungs)
    raced = race(sweep.contestants, sweep.score, len(study.p.rungs), study.p.keep, early="chrF2")
    assert {m: raced[m, "paper"].hyper for m in study.methods} == {m: best[m, "paper"].hyper for m in study.methods}
    # the extended grid, which no table's merge comes from: a point at most 2 BLEU below the best
    lost = {
        m: best[m, "extended"].mean - scores[m, "extended", json.dumps(raced[m, "extended"].hyper)]
        for m in study.methods
    }
    assert all(0 <= x <= 2 for x in lost.values()), lost

    # and it saves most of the work
    def sentences(contestants):
        return sum(p.rungs[-1]["sentences"] for p in contestants)

    assert sentences(sweep.contestants) < 0.4 * len(sweep.contestants) * study.p.rungs[-1]


def test_last_rung_scores_are_those_of_all_its_sentences(tmp_path, study, whole):
    "The statistics of three rungs add up to those of one."
    _, scores = whole
    sweep = sweep_of(tmp_path, study, study.p.rungs)
    race(sweep.contestants, sweep.score, len(study.p.rungs), 1.0, early="chrF2")
    for p in sweep.contestants:
        np.testing.assert_allclose(p.mean, scores[p.method, p.grid, json.dumps(p.hyper)], rtol=1e-12)
