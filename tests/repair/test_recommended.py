"What the repair study recommends, as arguments of `mmtmerge repair`."
import inspect

import pytest

from mmtmerge import cli
from mmtmerge.core import UserError
from mmtmerge.repair.artefact import repair_checkpoints
from mmtmerge.repair.candidates import Candidate, Trunk
from mmtmerge.settings import load
from mmtmerge.study import recommended as module

TIES = Trunk("ties", .4, "base", (("K", .7),))
BEST = Candidate("low rank on the merge", TIES, "projections=low_rank(2)", value=2)
SCORES = {d: dict(chrF2=20., BLEU=5.) for d in ("en-hi", "en-ta")}


def result_with(candidate):
    "A run on dev that recommends a candidate."
    rows = [dict(name="experts", spec=Candidate("experts", Trunk("experts")).spec,
                 scores={d: dict(chrF2=25., BLEU=6.) for d in SCORES}),
            dict(name=candidate.name, spec=candidate.spec, scores=SCORES)]
    return dict(result=dict(recommended=candidate.spec, candidates=rows))


def test_the_choice_of_a_study_is_what_repair_takes(monkeypatch):
    monkeypatch.setattr(module, "read_json", lambda path: result_with(BEST))
    given = module.recommended(load("smoke"), "en-indic")
    known = inspect.signature(repair_checkpoints).parameters
    assert {name for name in given if name not in known} == {"K"} and given["K"] == .7
    assert (given["trunk"], given["lam"], given["embeddings"], given["rules"]) == ("ties", .4, "base", BEST.rules)
    assert given["retention"] == {"en-hi": .8, "en-ta": .8}
    assert given["experts"]["en-hi"].parts[-3:] == ("finetune", "en-hi", "checkpoint")
    assert given["instructions"]["en-ta"].endswith("Tamil")


def test_a_choice_without_parts_is_refused(monkeypatch):
    bare = Candidate("bare", TIES, keep="script")
    monkeypatch.setattr(module, "read_json", lambda path: result_with(bare))
    with pytest.raises(UserError, match="recommends no parts"):
        module.recommended(load("smoke"), "en-indic")


@pytest.mark.parametrize(
    "group, base, experts, told",
    [(None, None, {}, "give --base"), ("all", "base", {}, "leave out --base"), (None, "base", {}, "give --base"),
     ("all", None, {"en-hi": "a"}, "leave out --base"), ("en-ind", None, {}, "did you mean 'en-indic'")],
)
def test_models_are_given_or_recommended(group, base, experts, told):
    with pytest.raises(UserError, match=told):
        cli.study_choice(group, "smoke", base, experts)


def test_models_that_are_given_need_no_study():
    assert cli.study_choice(None, "smoke", "base", {"en-hi": "folder"}) == {}
