"Candidates of the repair study, measured with a resident model: weights, resumption, choice."
import json

import pandas as pd
import pytest
import torch

from mmtmerge.core import UserError
from mmtmerge.merge.example_experts import example_experts, load_miniature
from mmtmerge.repair import candidates, choose
from mmtmerge.repair.candidates import Candidate, Trunk
from mmtmerge.repair.trials import Trials, Trunks, owners_of
from mmtmerge.settings import load
from mmtmerge.study.stages.repair import repair_groups
from mmtmerge.translate import Translations

HALF = Trunk("task_arithmetic", .5, "base")
TWO = Candidate("low rank on the merge", HALF, "projections=low_rank(2)", value=2)
LINES = {d: pd.DataFrame(dict(source=["a b c"] * 2, target=["ठीक है", "फ़ाइल"])) for d in ("en-hi", "en-ta")}


@pytest.fixture
def trials(tmp_path):
    "Trials whose translations say how often they were asked."
    vectors, model = example_experts(), load_miniature()
    asked = []

    def translate(direction, keep):
        asked.append((direction, keep))
        return Translations(["ठीक है", "ठीक"], [2, 2], [9, 9], .1)

    trunks = Trunks(vectors.base, vectors.experts)
    study = load("laptop")
    targets = {d: study.language(d.removeprefix("en-")) for d in LINES}
    made = Trials(dict(model.named_parameters()), trunks, 4, translate, LINES, targets, tmp_path / "dev.jsonl")
    made.asked = asked
    return made


def weights(trials, candidate, direction):
    "A copy of the resident weights of a candidate."
    touched, _ = trials.weights(candidate)
    trials.become(candidate, direction, touched[direction]())
    return {name: p.detach().clone() for name, p in trials.parameters.items()}


def equal(a, b):
    return all(torch.equal(a[name], b[name]) for name in b)


def test_a_whole_part_and_the_experts_are_the_experts(trials):
    expert = trials.trunks.experts["en-hi"]
    assert equal(weights(trials, Candidate("e", Trunk("experts")), "en-hi"), expert)
    assert equal(weights(trials, Candidate("w", HALF, "all=whole"), "en-hi"), expert)


def test_without_parts_all_directions_are_the_trunk(trials):
    bare = Candidate("bare", HALF)
    both = [weights(trials, bare, d) for d in ("en-hi", "en-ta")]
    assert equal(*both) and not equal(both[0], trials.trunks.base)
    assert trials.weights(bare)[1] == dict(models=1, memory=1)


def test_a_swapped_part_is_of_a_direction_with_another_target(trials):
    order = ["hi-en", "ta-en", "en-hi", "en-ta"]
    targets = {d: load("laptop").language(d[3:]) for d in order}
    assert owners_of(targets, True) == {"hi-en": "en-hi", "ta-en": "en-hi", "en-hi": "en-ta", "en-ta": "hi-en"}
    assert owners_of(targets, False) == dict(zip(order, order))
    swapped = Candidate("swapped", HALF, "projections=low_rank(2)", swapped=True)
    assert equal(weights(trials, swapped, "en-hi"), weights(trials, TWO, "en-ta"))
    assert swapped.name != TWO.name
    answers = trials.measure(swapped)["directions"]
    assert answers["en-ta"]["owner_script"] == 1 and answers["en-hi"]["owner_script"] == 0     # all are Devanagari


def test_ranks_below_the_largest_are_those_made_directly(trials):
    from mmtmerge.repair.compose import encode_expert, switched
    from mmtmerge.repair.where import parse_rules
    rules, trunk = parse_rules(TWO.rules), trials.trunks[HALF]
    direct = switched(trunk, encode_expert(trunk, trials.trunks.experts["en-hi"], rules), rules)
    found = weights(trials, TWO, "en-hi")
    assert direct and all(torch.equal(found[name], t) for name, t in direct.items())


def test_what_was_measured_is_not_measured_again(trials):
    first = trials.measure(TWO)
    assert len(trials.asked) == 2 and trials.measure(TWO) is first and len(trials.asked) == 2
    with open(trials.file, "a", encoding="utf-8") as f:
        f.write('\n{"name": "half a li')     # killed while it wrote
    again = Trials(trials.parameters, trials.trunks, 4, trials.translate, LINES, trials.targets, trials.file)
    assert again.measure(TWO) == first and len(trials.asked) == 2
    again.measure(Candidate("bare", HALF))
    lines = trials.file.read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[-1])["name"] == Candidate("bare", HALF).name
    with pytest.raises(UserError, match="measurements of other models"):
        Trials(trials.parameters, trials.trunks, 4, trials.translate, LINES, trials.targets, trials.file, "other")


def test_retention_of_the_experts_is_one(trials):
    own = trials.measure(Candidate("experts", Trunk("experts")))["directions"]
    assert choose.point_retention(own, own) == 1
    kept = choose.retention(own, own, "chrF2", 20, 42)
    assert kept == dict(score=1, ci_low=1, ci_high=1)


@pytest.mark.parametrize("profile", ["smoke", "laptop", "paper", "smollm2"])
def test_every_point_of_every_group_is_a_candidate(profile):
    study = load(profile)
    for group in repair_groups(study):
        chosen = {m: dict(lam=.5) for m in study.methods[1:]} if group in study.groups else {}
        winners = {name: contest[0] for name, contest in candidates.contests(study, chosen).items()}
        for name in candidates.points(study, group):
            assert candidates.point(name, winners, TWO, ".5").name


def test_only_folders_are_recommended():
    base, joint, experts = (Trunk(kind) for kind in ("base", "joint", "experts"))
    part = "projections=low_rank(2)"
    good = [TWO, Candidate("b", base, part)]
    bad = [Candidate("bare", HALF), Candidate("script", HALF, part, "script"), Candidate("joint", joint, part),
           Candidate("swapped", HALF, part, swapped=True), Candidate("experts", experts), Candidate("base", base)]
    assert all(map(choose.is_artefact, good)) and not any(map(choose.is_artefact, bad))


def test_an_expert_that_scores_nothing_stops_nothing():
    zero = dict(stats=dict(chrF2=[[0] * 18]), scores=dict(chrF2=0.))
    unknown = dict.fromkeys(("score", "ci_low", "ci_high"))
    assert choose.retention({"en-hi": zero}, {"en-hi": zero}, "chrF2", 5, 42) == unknown
    with pytest.raises(UserError, match="take more of them"):
        choose.recommended([dict(name="a", models=1., score=None, ci_low=None)])


def test_groups_of_one_target_have_no_contest_in_a_script():
    study = load("laptop")
    names = set(candidates.contests(study, {}, differing=False, whole=False))
    assert names == {"bare", "parts"}
    assert not [name for name in candidates.points(study, "indic-en") if name.endswith("script")]


def test_specs_survive_json():
    for family in candidates.FAMILIES:
        for candidate in candidates.members(family, load("laptop"), .5):
            assert Candidate.from_spec(json.loads(json.dumps(candidate.spec))) == candidate


def test_the_smallest_artefact_above_the_floor_is_recommended():
    rows = [dict(name="a", models=1., score=.9, ci_low=.8), dict(name="b", models=1.1, score=1., ci_low=.951),
            dict(name="c", models=1.03, score=.99, ci_low=.9501), dict(name="d", models=1.01, score=1.2, ci_low=.949)]
    best, above = choose.recommended(rows)
    assert best["name"] == "c" and above
    best, above = choose.recommended(rows[::3])
    assert best["name"] == "d" and not above
