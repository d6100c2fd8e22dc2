"Claims on Section 5, from recordings in which it is known what holds."
import numpy as np
import pytest

from mmtmerge.probe.recording import Recording
from mmtmerge.probe.spans import SPANS
from mmtmerge.report import claim_evidence as evidence
from mmtmerge.report.claim import registry
from mmtmerge.report.claims_section5 import claims_table, section5_claims
from mmtmerge.report.claim_evidence import (BEFORE_LAST, LAST, Evidence, angle_variants, bounded_cosine_variants,
                                      cka_variants,
                                      cosine_variants, neuron_variants)
from mmtmerge.report.results import Results
from mmtmerge.settings import BASE, MANY_TO_ONE, ONE_TO_MANY, load

BLOCKS, NEURONS, FOLDS, SENTENCES, HIDDEN = 9, 100, 4, 40, 24
LAST_DEPTH = BLOCKS       # of the depths embeddings, blocks, final norm
PLANTED = {   # (group, span) -> block -> neurons of a language alone: in the base, in its expert, in the merge
    ("indic-en", "source"): {0: (0, 3, 3), 4: (1, 1, 1)},      # grows in the first block
    ("indic-en", "target"): {8: (2, 0, 0)},                    # shrinks
    ("en-indic", "source"): {4: (1, 1, 1)},                    # stays
    ("en-indic", "target"): {0: (1, 1, 0), 8: (1, 6, 2)},      # lies in the upper blocks, and is lost by the merge
}
KINDS = ("base", "expert", "merge")


def kind_of(system):
    asked = system if system == "base" else "merge" if "." in system else "expert"
    return KINDS.index(asked)


def planted_counts(study, system, direction):
    "Ten neurons of each block for every language; as many of them as planted open for that language alone."
    group = study.own_group(direction)
    members, kind = study.groups[group], kind_of(system)
    counts = np.full((2, FOLDS, BLOCKS, NEURONS), 10)
    for s, span in enumerate(SPANS):
        for block, numbers in PLANTED[group, span].items():
            for i, member in enumerate(members):
                untrained = kind == KINDS.index("expert") and member != system
                n = numbers[0] if untrained else numbers[kind]
                counts[s, :, block, 10 * i:10 * i + n] = 40 if member == direction else 0
    return counts


def planted_features(study, system, direction, stem):
    "All models alike, but for the target in the last block of the En→Indic experts."
    features = stem.copy()
    if kind_of(system) == KINDS.index("expert") and study.own_group(direction) == "en-indic":
        own = np.random.default_rng(1 + study.directions.index(system))
        features[1, LAST_DEPTH] = own.normal(size=(SENTENCES, HIDDEN))
    return features


@pytest.fixture(scope="module")
def results():
    study = load("smoke")
    study.p.probe_folds, study.p.angle_dims, study.p.probe_merges = FOLDS, 8, ["task_arithmetic"]
    stem = np.random.default_rng(0).normal(size=(2, BLOCKS + 2, SENTENCES, HIDDEN)).astype(np.float32)

    def planted(results, system, direction):
        counts = planted_counts(study, system, direction)
        return Recording(counts, np.full((2, FOLDS), 50), planted_features(study, system, direction, stem))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evidence, "recording", planted)
        yield Results(study)


def looks(results, variants):
    "Evidence from all folds, under every variant."
    return [Evidence(results, np.arange(FOLDS), variant) for variant in variants(results.study)]


def by_block(**numbers):
    "Numbers of neurons by block: b0=3."
    return [numbers.get(f"b{block}", 0) for block in range(BLOCKS)]


def test_neurons_are_those_planted_under_every_variant(results):
    for e in looks(results, neuron_variants):
        assert e.growth(MANY_TO_ONE, "source").tolist() == [by_block(b0=3)] * 2
        assert e.growth(MANY_TO_ONE, "target").tolist() == [by_block(b8=-2)] * 2
        assert not e.growth(ONE_TO_MANY, "source").any()
        assert e.tuned(ONE_TO_MANY, "target").tolist() == [by_block(b0=1, b8=6)] * 2
        assert e.lost(ONE_TO_MANY, "target").tolist() == [by_block(b0=1, b8=4)] * 2


def test_similarity_is_lost_where_it_was_planted(results):
    for e in looks(results, cka_variants):
        assert e.cka(ONE_TO_MANY, "target", BASE, BEFORE_LAST) == pytest.approx(1)
        assert e.cka(ONE_TO_MANY, "source", "experts", LAST) == pytest.approx(1)
        assert e.cka(MANY_TO_ONE, "target", "experts", LAST) == pytest.approx(1)
        assert e.cka(ONE_TO_MANY, "target", "experts", LAST) < .6
    for e in looks(results, angle_variants):
        assert e.angle(ONE_TO_MANY, BEFORE_LAST) == pytest.approx(0, abs=1e-4)
        assert e.angle(ONE_TO_MANY, LAST) > 25
    for e in looks(results, cosine_variants)[:1]:
        assert e.usage(MANY_TO_ONE, "target", True) == pytest.approx(1, abs=.01)


def test_the_biased_cka_sees_likeness_in_noise(results):
    biased, debiased = (e.cka(ONE_TO_MANY, "target", "experts", LAST) for e in looks(results, cka_variants)[:2])
    assert abs(debiased) < .15 < .25 < biased


@pytest.fixture(scope="module")
def table(results):
    return claims_table(results).set_index("claim")


@pytest.mark.parametrize("part, verdict, value", [
    ("a language has more source neurons", "holds", 3),
    ("source: the growth lies in the first block", "holds", 3 - 3 / BLOCKS),
    ("a language has more target neurons", "does not hold", -2),
    ("an expert's neurons lie in the upper blocks", "holds", 6 - 2 * 7 / BLOCKS),
    ("a merge has fewer neurons", "holds", 5),
    ("En→Indic, target: a merge has fewer neurons of a language than its expert in the upper blocks", "holds", 4),
    ("Depth profiles differ", "not tested", None),
    ("experts part from the base in the last block", "holds", None),
    ("Early layers stay almost perfectly aligned", "holds", .02),
    ("from the early to the middle band", "cannot tell", 0),
])
def test_verdicts(table, part, verdict, value):
    row = table[[part in claim for claim in table.index]].iloc[0]
    assert row.verdict == verdict
    assert value is None or row.value == pytest.approx(value)


def test_the_value_lies_in_the_range_of_the_variants(table):
    tested = table[table.verdict != "not tested"]
    assert (tested.sensitivity_low <= tested.value + 1e-12).all()
    assert (tested.value <= tested.sensitivity_high + 1e-12).all()
    agree = table.loc["En→Indic: in the last block experts agree on the source, not on the target"]
    assert agree.value < agree.sensitivity_high     # more, where the bias is gone


def test_a_claim_that_depends_on_the_variant_cannot_be_told(results):
    "One sign under the paper's choice, another under a neighbour; a bound is not asked of the centred cosine."
    claims, claim = registry()

    @claim(section="5.3", unit="CKA", variants=cka_variants)
    def biased_only(e):
        "x"
        return 1. if e.variant["metric"] == "cka" else -1.

    @claim(section="5.2", unit="cosine", variants=bounded_cosine_variants)
    def not_centred(e):
        "y"
        return -1. if e.variant["reading"] == "centred" else 1.

    table = claims_table(results, list(claims.values()))
    assert list(table.verdict) == ["cannot tell", "holds"]
    assert list(table.sensitivity_low) == [-1, 1]


def test_the_label_of_a_unit_decides_nothing(results):
    "The same verdict under another label."
    claims, claim = registry()

    @claim(section="5.2", unit="cosine - 0.98", variants=bounded_cosine_variants)
    def relabelled(e):
        "y"
        return -1. if e.variant["reading"] == "centred" else 1.

    assert list(claims_table(results, list(claims.values())).verdict) == ["holds"]


def test_no_claim_is_there_twice():
    claims = section5_claims()
    assert len({c.name for c in claims}) == len({c.text for c in claims}) == len(claims)
    assert {c.section for c in claims} == {"5.1", "5.2", "5.3", "5.4", "5.5"}
