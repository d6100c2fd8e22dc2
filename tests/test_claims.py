"Claims on Section 5, from recordings in which it is known what holds."
import numpy as np
import pytest

from mmtmerge.report import claims
from mmtmerge.report.claims import MANY, ONE, Evidence, claims_table, ways
from mmtmerge.probe.record import SPANS, Recording
from mmtmerge.settings import load

BLOCKS, NEURONS, FOLDS, SENTENCES, HIDDEN = 9, 100, 4, 40, 24
PLANTED = {   # (group, span) -> block -> neurons of a language alone: in the base, in its expert, in the merge
    ("indic-en", "source"): {0: (0, 3, 3), 4: (1, 1, 1)},      # grows in the first block
    ("indic-en", "target"): {8: (2, 0, 0)},                    # shrinks
    ("en-indic", "source"): {4: (1, 1, 1)},                    # stays
    ("en-indic", "target"): {0: (1, 1, 0), 8: (1, 6, 2)},      # lies in the upper blocks, and is lost by the merge
}


@pytest.fixture
def study(monkeypatch):
    study = load("smoke")
    study.p.probe_folds, study.p.angle_dims, study.p.probe_merges = FOLDS, 8, ["task_arithmetic"]
    draw = np.random.default_rng(0)
    stem = draw.normal(size=(2, BLOCKS + 2, SENTENCES, HIDDEN)).astype(np.float32)

    def planted(study, system, direction):
        group = next(g for g in ("indic-en", "en-indic") if direction in study.groups[g])
        language, kind = study.groups[group].index(direction), "base" if system == "base" else "merge" if "." in system else "expert"
        counts, features = np.full((2, FOLDS, BLOCKS, NEURONS), 10), stem.copy()
        for s, span in enumerate(SPANS):
            for block, numbers in PLANTED[group, span].items():
                for i in range(len(study.groups[group])):
                    own = kind != "expert" or study.groups[group][i] == system
                    n = numbers[("base", "expert", "merge").index(kind)] if own else numbers[0]
                    counts[s, :, block, 10 * i:10 * i + n] = 40 if i == language else 0
        if kind == "expert" and group == "en-indic": features[1, BLOCKS] = np.random.default_rng(1 + study.directions.index(system)).normal(size=(SENTENCES, HIDDEN))     # the target, in the last block
        return Recording(counts, np.full((2, FOLDS), 50), features)
    monkeypatch.setattr(claims, "recording", planted)
    return study


def test_evidence_is_what_was_planted(study):
    look = lambda unit, way=0: Evidence(study, np.arange(FOLDS), ways(study, unit)[way])
    block = lambda **at: [at.get(f"b{b}", 0) for b in range(BLOCKS)]
    for way in range(len(ways(study, "neurons"))):
        e = look("neurons", way)
        assert e.growth(MANY, "source").tolist() == [block(b0=3)] * 2 and e.growth(MANY, "target").tolist() == [block(b8=-2)] * 2
        assert not e.growth(ONE, "source").any() and e.tuned(ONE, "target").tolist() == [block(b0=1, b8=6)] * 2
        assert e.lost(ONE, "target").tolist() == [block(b0=1, b8=4)] * 2
    last, before = (lambda blocks: [blocks]), (lambda blocks: [blocks - 1])
    for way in range(3):
        e = look("CKA", way)
        assert e.cka(ONE, "target", "base", before) == pytest.approx(1) and e.cka(ONE, "source", "experts", last) == pytest.approx(1)
        assert e.cka(ONE, "target", "experts", last) < .6 and e.cka(MANY, "target", "experts", last) == pytest.approx(1)
        assert look("degrees", way).angle(ONE, before) == pytest.approx(0, abs=1e-4) and look("degrees", way).angle(ONE, last) > 25
    assert abs(look("CKA", 1).cka(ONE, "target", "experts", last)) < .15 < .25 < look("CKA").cka(ONE, "target", "experts", last)     # the biased one sees likeness in noise
    assert look("cosine").usage(MANY, "target", True) == pytest.approx(1, abs=.01)


def test_verdicts(study):
    table = claims_table(study).set_index("claim")
    told = lambda part: table[[part in c for c in table.index]].iloc[0]
    for part, verdict, value in (("a language has more source neurons", "holds", 3), ("source: the growth lies in the first block", "holds", 3 - 3 / BLOCKS), ("a language has more target neurons", "does not hold", -2),
                                 ("an expert's neurons lie in the upper blocks", "holds", 6 - 2 * 7 / BLOCKS), ("a merge has fewer neurons", "holds", 5), ("… in the upper blocks", "holds", 4), ("Depth profiles differ", "not tested", None),
                                 ("experts part from the base in the last block", "holds", None), ("Early layers stay almost perfectly aligned", "holds", .02), ("from the early to the middle band", "cannot tell", 0)):
        assert told(part).verdict == verdict and (value is None or told(part).value == pytest.approx(value)), (part, told(part))
    assert told("En→Indic: in the last block experts agree on the source").value < told("En→Indic: in the last block experts agree on the source").sensitivity_high     # more, where the bias is gone
    tested = table[table.verdict != "not tested"]
    assert (tested.sensitivity_low <= tested.value + 1e-12).all() and (tested.value <= tested.sensitivity_high + 1e-12).all()


def test_a_claim_that_hangs_on_the_way_of_looking_cannot_be_told(study, monkeypatch):
    "One sign under the paper's reading, another under a neighbour."
    monkeypatch.setattr(claims, "CLAIMS", [("5.3", "x", "CKA", lambda e: 1. if e.how["metric"] == "cka" else -1., None), ("5.2", "y", f"cosine − {claims.ALIKE}", lambda e: 1. if e.how["reading"] != "centred" else -1., None)])
    table = claims_table(study)
    assert list(table.verdict) == ["cannot tell", "holds"] and list(table.sensitivity_low) == [-1, 1]
