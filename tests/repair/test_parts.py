"What must hold for every part: exact where it claims to be, as large as it says, and refused by name."

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from mmtmerge.core import UserError
from mmtmerge.merge.apply import merge_state_dicts
from mmtmerge.merge.checkpoint_reader import Checkpoint
from mmtmerge.merge.example_experts import DATA, example_experts
from mmtmerge.repair.compose import encode_expert, memory_in_models, size_in_models, switched, unify
from mmtmerge.repair.masks import emr_plain, tall_mask
from mmtmerge.repair.parts import PARTS, Difference, decode, encode, leading_eigenvectors, memory_bytes
from mmtmerge.repair.parts import stored_bytes, unified
from mmtmerge.repair.sparse import ternary_planes
from mmtmerge.repair.where import Rule, find_rule, parse_rules, rules_text

# part -> settings to try; a new part fails until it is listed here
HYPER = {
    "whole": [{}],
    "low_rank": [dict(r=1), dict(r=3, factors="float32"), dict(r=500)],
    "bits": [{}, dict(b=3), dict(rows=True), dict(b=2, rows=True)],
    "bits_low_rank": [dict(b=1, r=2), dict(b=2, r=500, rows=True, factors="float32")],
    "ternary": [dict(rho=0.05), dict(rho=0.3, c=0.7), dict(rho=1)],
    "drop": [dict(p=0), dict(p=0.5), dict(p=0.9)],
    "rows": [dict(rho=0.05), dict(rho=0.5), dict(rho=1)],
    "tall": [dict(lam=0.4), dict(lam=0)],
    "emr": [{}, dict(published=True)],
}
CASES = [Rule("all", name, hyper) for name, several in HYPER.items() for hyper in several]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SHAPES = [(12, 7), (5, 16), (9,), (1, 4), (6, 1)]
EMPTY = [(0,), (0, 5), (5, 0)]

each_part = pytest.mark.parametrize("rule", CASES, ids=str)


def draw(*shape, seed=0, scale=1.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def experts_around(base, n=3, size=1e-3):
    "Experts whose updates are small beside the weights."
    updates = [draw(*base.shape, seed=seed, scale=size) for seed in range(1, n + 1)]
    return [(base.float() + update).to(base.dtype) for update in updates]


def shared_of(rule, base, experts):
    return unified(rule, base, experts) if PARTS[rule.part].needs_shared else None


def round_trip(rule, base, experts):
    "Stored part of the first expert, and the weights made of it."
    shared = shared_of(rule, base, experts)
    stored = encode(rule, base, experts[0], shared, name="w")
    return stored, decode(rule, base, stored, shared)


def test_every_part_is_tested():
    assert HYPER.keys() == PARTS.keys()


@each_part
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_its_plain_form(rule, shape):
    "To the rounding of what is stored in bfloat16."
    base = draw(*shape, scale=0.05)
    experts = experts_around(base)
    _, weights = round_trip(rule, base, experts)
    d = Difference(base, experts[0], shared_of(rule, base, experts), name="w")
    expected = PARTS[rule.part].plain(d, **rule.hyper)
    error = (weights - base - expected).abs().max()
    assert error <= 2**-6 * expected.abs().max() + 1e-8


@each_part
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_keeps_type_and_shape(rule, dtype):
    for shape in SHAPES + EMPTY:
        base = draw(*shape, scale=0.05).to(dtype)
        _, weights = round_trip(rule, base, experts_around(base, size=0.01))
        assert weights.dtype == dtype and weights.shape == base.shape
        assert torch.isfinite(weights).all()


@each_part
@pytest.mark.parametrize("shape", SHAPES + EMPTY, ids=str)
def test_bytes_are_those_of_the_file(rule, shape):
    base = draw(*shape)
    experts = experts_around(base)
    stored, weights = round_trip(rule, base, experts)
    file = save(stored)
    header = int.from_bytes(file[:8], "little")
    assert stored_bytes(stored) == len(file) - 8 - header
    ranges = [entry["data_offsets"] for name, entry in json.loads(file[8 : 8 + header]).items()]
    assert max(end for _, end in ranges) == stored_bytes(stored)
    again = decode(rule, base, load(file), shared_of(rule, base, experts))
    assert torch.equal(again, weights)


@each_part
def test_same_bytes_on_any_number_of_threads(rule):
    base = draw(300, 200, scale=0.05)
    experts = experts_around(base)
    threads, results = torch.get_num_threads(), []
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            stored, weights = round_trip(rule, base, experts)
            assert torch.get_num_threads() == n
            results.append(save(stored | dict(weights=weights)))
    finally:
        torch.set_num_threads(threads)
    assert results[0] == results[1] == results[2]


@each_part
def test_same_bytes_from_several_threads_at_once(rule):
    base = draw(60, 50, scale=0.05)
    experts = experts_around(base)
    with ThreadPoolExecutor(4) as pool:
        stored = list(pool.map(lambda _: save(round_trip(rule, base, experts)[0]), range(8)))
    assert len(set(stored)) == 1


@each_part
def test_does_not_change_what_it_reads(rule):
    base = draw(8, 6)
    experts = experts_around(base)
    before = [t.clone() for t in (base, *experts)]
    stored, weights = round_trip(rule, base, experts)
    kept = {name: t.clone() for name, t in stored.items()}
    weights.zero_()
    assert all(torch.equal(a, b) for a, b in zip(before, (base, *experts)))
    assert all(torch.equal(stored[name], kept[name]) for name in kept)


@each_part
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_refuses_what_is_not_finite(rule, value):
    base = draw(8, 6)
    experts = experts_around(base)
    shared = shared_of(rule, base, experts)
    broken = experts[0].clone()
    broken[2, 3] = value
    with pytest.raises(UserError, match="'w': the expert holds NaN or Inf"):
        encode(rule, base, broken, shared, name="w")
    with pytest.raises(UserError, match="'w': the trunk holds NaN or Inf"):
        encode(rule, broken, base, shared, name="w")
    if PARTS[rule.part].needs_shared:
        with pytest.raises(UserError, match="'w': the expert holds NaN or Inf"):
            unified(rule, base, [*experts, broken], "w")


@each_part
def test_an_expert_that_is_the_trunk_adds_nothing(rule):
    base = draw(8, 6)
    _, weights = round_trip(rule, base, [base, base])
    assert torch.equal(weights, base)


# --- whole models


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("lam", [0.5])
def test_trunk_and_whole_is_the_expert(dtype, lam):
    v = example_experts()
    base = {name: t.to(dtype) for name, t in v.base.items()}
    experts = {who: {name: t.to(dtype) for name, t in e.items()} for who, e in v.experts.items()}
    trunk = merge_state_dicts(base, experts, "task_arithmetic", lam=lam)
    for expert in experts.values():
        weights = switched(trunk, encode_expert(trunk, expert, "all=whole"), "all=whole")
        assert weights.keys() == expert.keys()
        assert all(torch.equal(weights[name], expert[name]) for name in expert)


def test_low_rank_at_full_rank_is_the_expert():
    "With float32 factors to their rounding, with bfloat16 factors to theirs: 8 bits of each factor."
    v = example_experts()
    for factors, bits in [("float32", 18), ("bfloat16", 7)]:
        rules = f"all=low_rank(100000, factors={factors})"
        weights = switched(v.base, encode_expert(v.base, v.experts["en-hi"], rules), rules)
        for name, t in v.experts["en-hi"].items():
            left, update = (weights[name] - t).norm(), (t - v.base[name]).norm()
            rounding = 2**-23 * t.norm()
            assert left <= 2**-bits * update + rounding, name


@pytest.mark.parametrize("shape", [(30, 11), (11, 30), (16, 16)], ids=str)
@pytest.mark.parametrize("r", [1, 2, 5, 11])
def test_low_rank_is_optimal(shape, r):
    "No matrix of this rank is nearer (Eckart and Young)."
    base, expert = draw(*shape, seed=1), draw(*shape, seed=2)
    rule = Rule("all", "low_rank", dict(r=r, factors="float32"))
    weights = decode(rule, base, encode(rule, base, expert))
    singular = torch.linalg.svd((expert - base).double()).S
    assert (weights - expert).double().norm() == pytest.approx(float(singular[r:].norm()), rel=1e-5, abs=1e-5)
    assert torch.linalg.matrix_rank(weights - base, rtol=1e-4) == r


def test_factors_are_those_of_an_adapter():
    "B @ A with both in float32, as PEFT computes it where lora_alpha is r; r columns also where R has fewer."
    base = draw(8, 6)
    expert = base + torch.outer(draw(8, seed=1), draw(6, seed=2))
    rule = Rule("projections", "low_rank", dict(r=3))
    stored = encode(rule, base, expert)
    assert stored["B"].shape == (8, 3) and stored["A"].shape == (3, 6)
    assert stored["B"].dtype == stored["A"].dtype == torch.bfloat16
    layer = torch.nn.functional.linear
    x = draw(4, 6, seed=3)
    adapter = layer(layer(x, stored["A"].float()), stored["B"].float())
    assert torch.allclose(layer(x, decode(rule, base, stored)), layer(x, base) + adapter, atol=1e-5)


@pytest.mark.parametrize("shape", [(30, 11), (4, 4)], ids=str)
def test_signs_of_eigenvectors_are_fixed(shape):
    m = draw(*shape)
    q = leading_eigenvectors(m, 4)
    assert torch.equal(q, leading_eigenvectors(-m, 4))
    assert torch.equal(q.abs().max(0).values, q.max(0).values)


@pytest.mark.parametrize("hyper", [{}, dict(b=2), dict(rows=True)], ids=str)
def test_bits_of_a_constant_magnitude_are_exact(hyper):
    for magnitude in (0.1, 1e-4, 3.0):
        expert = torch.where(draw(57, 31) > 0, magnitude, -magnitude)
        trunk = torch.zeros_like(expert)
        rule = Rule("all", "bits", hyper)
        assert torch.equal(decode(rule, trunk, encode(rule, trunk, expert)), expert)


def test_bits_by_rows_follow_each_row():
    rows = torch.tensor([0.5, 0.001, 8.0, 0.25])[:, None]
    expert = rows * draw(4, 33).sign()
    trunk = torch.zeros_like(expert)
    rule = Rule("all", "bits", dict(rows=True))
    assert torch.equal(decode(rule, trunk, encode(rule, trunk, expert)), expert)


def test_more_planes_leave_less():
    base = draw(40, 30)
    expert = experts_around(base)[0]
    left = []
    for b in (1, 2, 3, 6):
        rule = Rule("all", "bits", dict(b=b))
        left.append(float((decode(rule, base, encode(rule, base, expert)) - expert).norm()))
    assert left == sorted(left, reverse=True) and left[-1] < 0.3 * left[0]


@pytest.mark.parametrize("rho", [1e-9, 0.05, 0.5, 1])
def test_ternary_keeps_the_largest(rho):
    base, shape = draw(50, 20), (50, 20)
    expert = experts_around(base)[0]
    rule = Rule("all", "ternary", dict(rho=rho))
    stored = encode(rule, torch.zeros(shape), expert - base)
    values = decode(rule, torch.zeros(shape), stored)
    kept = values != 0
    update = (expert - base).abs()
    assert kept.sum() == max(1, round(rho * 1000))
    assert values[kept].abs().unique().numel() == 1
    assert kept.all() or update[kept].min() >= update[~kept].max()
    planes = ternary_planes(stored, shape)
    assert memory_bytes(rule, stored, shape) == stored_bytes(planes)
    assert planes["mask"].numel() == planes["signs"].numel() == 125


def test_ternary_of_equal_magnitudes_keeps_its_share():
    trunk = torch.zeros(1000)
    rule = Rule("all", "ternary", dict(rho=0.1))
    values = decode(rule, trunk, encode(rule, trunk, draw(1000).sign()))
    assert (values != 0).sum() == 100 and (values[:100] != 0).all()


def test_drop_is_right_on_average():
    trunk, expert = torch.zeros(400, 500), torch.full((400, 500), 0.5)
    rule = Rule("all", "drop", dict(p=0.9))
    values = decode(rule, trunk, encode(rule, trunk, expert, seed=3, name="w"))
    assert float(values.mean()) == pytest.approx(0.5, rel=0.02)
    assert torch.allclose(values[values != 0], torch.tensor(5.0))


def test_drop_draws_by_seed_and_tensor():
    trunk, expert = torch.zeros(64), torch.ones(64)
    rule = Rule("all", "drop", dict(p=0.5))
    keys = {tuple(encode(rule, trunk, expert, seed=s, name=n)["key"].tolist()) for s in (1, 2) for n in "ab"}
    assert len(keys) == 4


# --- masks


def published_tall_mask(base, expert, multi_task_model, lam):
    "As the paper says it, in models: nearer to the multi-task model than to the base, up to a factor. float64."
    base, expert, multi_task_model = base.double(), expert.double(), multi_task_model.double()
    return (base - expert).abs() >= lam * (multi_task_model - expert).abs()


def with_weights_for_the_sum(base, task_vector, multi_task_vector, lam):
    "What fusion_bench 0.2.33 computes: it passes the base's weights where the sum of task vectors belongs."
    return torch.abs(base - task_vector) >= lam * torch.abs(multi_task_vector - task_vector)


@pytest.mark.parametrize("lam", [0.2, 0.4, 0.6, 1.0])
def test_tall_is_the_published_function(lam):
    base = draw(60, 50, scale=0.05)
    experts = experts_around(base, n=8)
    deltas = [expert - base for expert in experts]
    m = torch.stack(deltas).sum(0)
    rule = Rule("all", "tall", dict(lam=lam))
    shared = unified(rule, base, experts)
    assert torch.allclose(shared, m, atol=1e-8)
    for expert, delta in zip(experts, deltas):
        mask = published_tall_mask(base, expert, base.double() + shared, lam)
        assert torch.equal(tall_mask(delta, shared, lam), mask)
        weights = decode(rule, base, encode(rule, base, expert, shared), shared)
        assert torch.equal(weights, base + torch.where(mask, shared, 0.0))


def test_tall_does_not_compare_weights():
    "The bug of fusion_bench 0.2.33, TallMaskTaskArithmeticAlgorithm.run: nearly everything is kept."
    base = draw(400, 300, scale=0.05)
    experts = experts_around(base, n=4)
    delta, m = experts[0] - base, sum(expert - base for expert in experts)
    ours, theirs = tall_mask(delta, m, 0.4), with_weights_for_the_sum(base, delta, m, 0.4)
    assert theirs.float().mean() > 0.98
    assert 0.5 < ours.float().mean() < 0.7
    assert (ours == theirs).float().mean() < 0.7


def test_fusion_bench_still_has_the_bug():
    "Its own function, called as its algorithm calls it and as it should be called."
    module = pytest.importorskip("fusion_bench.method.tall_mask.task_arithmetic", exc_type=ImportError)
    base = draw(40, 30, scale=0.05)
    deltas = [expert - base for expert in experts_around(base, n=4)]
    m = torch.stack(deltas).sum(0)

    def mask(third):
        called = module.generate_task_masks(dict(w=m), dict(w=deltas[0]), third, tall_mask_lambda=0.4)
        return called["w"].bool()

    assert torch.equal(mask(dict(w=base)), with_weights_for_the_sum(base, deltas[0], m, 0.4))
    assert not torch.equal(mask(dict(w=base)), tall_mask(deltas[0], m, 0.4))
    assert torch.equal(mask(dict(w=torch.zeros_like(base))), tall_mask(deltas[0], m, 0.4))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tall_without_a_threshold_is_the_sum(dtype):
    base = draw(20, 10, scale=0.05).to(dtype)
    experts = experts_around(base, size=0.01)
    rule = Rule("all", "tall", dict(lam=0))
    shared = unified(rule, base, experts)
    weights = decode(rule, base, encode(rule, base, experts[0], shared), shared)
    assert torch.equal(weights, (base.float() + shared).to(dtype))


@pytest.mark.parametrize("rules", ["all=emr", "all=emr(published=True)"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_emr_of_one_expert_is_that_expert(rules, dtype):
    v = example_experts()
    base = {name: t.to(dtype) for name, t in v.base.items()}
    expert = {name: t.to(dtype) for name, t in v.experts["en-ta"].items()}
    shared = unify(base, dict(one=expert), rules)
    weights = switched(base, encode_expert(base, expert, rules, shared), rules, shared)
    for name, t in expert.items():
        assert torch.allclose(weights[name].float(), t.float(), atol=1e-7, rtol=1e-7), name


def test_emr_scales_by_the_whole_model():
    "Not by each tensor; tensors of other rules do not count."
    sizes = dict(a=1e-3, b=5e-2)
    base = {name: draw(*shape, seed=9) for name, shape in dict(a=(40, 5), b=(7, 3)).items()}
    experts = {}
    for i, who in enumerate(("x", "y", "z")):
        experts[who] = {name: t + draw(*t.shape, seed=i, scale=sizes[name]) for name, t in base.items()}
    rows = [torch.cat([(e[name] - base[name]).flatten() for name in base]) for e in experts.values()]
    expected, _ = emr_plain(torch.stack(rows).double())
    shared = unify(base, experts, "all=emr")
    for row, expert in zip(expected, experts.values()):
        parts = encode_expert(base, expert, "all=emr", shared)
        weights = switched(base, parts, "all=emr", shared)
        got = torch.cat([(weights[name] - base[name]).flatten() for name in base])
        assert torch.allclose(got.double(), row, atol=1e-6)
        assert parts["a"]["scale"] == parts["b"]["scale"]


def test_emr_as_published_adds_means():
    base = {"a": torch.zeros(100, 4), "b": torch.zeros(2)}
    x = {"a": draw(100, 4, scale=1e-3), "b": torch.tensor([0.2, -0.1])}
    y = {"a": draw(100, 4, seed=1, scale=1e-3), "b": torch.tensor([0.3, 0.4])}
    rules = "all=emr(published=True)"
    shared = unify(base, dict(x=x, y=y), rules)
    own = sum(float(x[name].abs().mean()) for name in base)
    selected = sum(float(torch.where(x[name] * shared[name] > 0, shared[name], 0).abs().mean()) for name in base)
    parts = encode_expert(base, x, rules, shared)
    assert float(parts["a"]["scale"]) == pytest.approx(own / selected, rel=1e-6)
    summed = encode_expert(base, x, "all=emr", shared)
    assert float(summed["a"]["scale"]) != pytest.approx(own / selected, rel=1e-2)


def test_masks_need_their_vector():
    base = draw(4, 4)
    for rule in (Rule("all", "tall", dict(lam=0.4)), Rule("all", "emr")):
        with pytest.raises(UserError, match="needs the vector that all directions share"):
            encode(rule, base, base)
        with pytest.raises(UserError, match="needs the vector that all directions share"):
            encode(rule, base, base, shared=draw(4))
    with pytest.raises(UserError, match="part whole shares nothing between directions; parts that do: "):
        unified(Rule("all", "whole"), base, [base])
    with pytest.raises(UserError, match="at least one"):
        unified(Rule("all", "emr"), base, [])


# --- rules and sizes

NAMES = {
    "model.embed_tokens.weight": (30, 8),
    "model.layers.0.self_attn.q_proj.weight": (8, 8),
    "model.layers.0.self_attn.q_proj.bias": (8,),
    "model.layers.1.self_attn.q_norm.weight": (4,),
    "model.layers.1.mlp.up_proj.weight": (16, 8),
    "model.layers.2.self_attn.qkv_proj.weight": (24, 8),
    "model.layers.2.input_layernorm.weight": (8,),
    "model.norm.weight": (8,),
    "lm_head.weight": (30, 8),
}


@pytest.mark.parametrize(
    "where, expected",
    [
        ("all", list(range(9))),
        ("projections", [1, 4]),
        ("mlp", [4]),
        ("attention", [1, 2, 3, 5]),
        ("embeddings", [0, 8]),
        ("norms", [3, 6, 7]),
        ("blocks:last(1)/all", [5, 6]),
        ("blocks:last(3)/projections", [1, 4]),
        ("blocks:first(2)/all", [1, 2, 3, 4]),
        ("blocks:middle(1)/all", [3, 4]),
        ("blocks:only(0, 2)/attention", [1, 2, 5]),
        ("blocks:last(3)/embeddings", []),
    ],
)
def test_which_tensors_are_meant(where, expected):
    rules = parse_rules(f"{where}=whole")
    names = [name for name, shape in NAMES.items() if find_rule(rules, name, shape, 3)]
    assert names == [list(NAMES)[i] for i in expected]


def test_the_first_rule_counts():
    rules = parse_rules("norms=whole; blocks:last(1)/all=low_rank(2); all=bits")
    found = [find_rule(rules, name, shape, 3).part for name, shape in NAMES.items()]
    assert found == ["bits", "bits", "bits", "whole", "bits", "low_rank", "whole", "whole", "bits"]


NUMBERS = st.integers(1, 99)
WHERES = st.one_of(
    st.sampled_from(["all", "projections", "mlp", "attention", "embeddings", "norms"]),
    st.builds("blocks:{}({})/mlp".format, st.sampled_from(["last", "first", "middle"]), NUMBERS),
    st.builds("blocks:only({},{})/all".format, NUMBERS, NUMBERS),
)
RULES = st.builds(lambda where, rule: Rule(where, rule.part, rule.hyper), WHERES, st.sampled_from(CASES))


@given(st.lists(RULES, max_size=5))
@settings(max_examples=50, deadline=None)
def test_text_gives_the_rules_back(rules):
    text = rules_text(rules)
    assert parse_rules(text) == rules
    assert rules_text(parse_rules(f" {text.replace(',', ' , ').replace('=', ' = ', 1)};\n")) == text


@pytest.mark.parametrize(
    "text, message",
    [
        ("all=lowrank(8)", "unknown part 'lowrank': did you mean 'low_rank'"),
        ("embedding=whole", "unknown kind of tensors 'embedding': did you mean 'embeddings'"),
        ("blocks:lasts(2)/all=whole", "unknown selection of blocks 'lasts': did you mean 'last'"),
        ("blocks:last(0)/all=whole", "at least 1"),
        ("blocks:last(1,2)/all=whole", "takes one number"),
        ("blocks:only()/all=whole", "needs a number"),
        ("blocks:last(2)=whole", "blocks are written as"),
        ("blocks:last(-2)/all=whole", "blocks are written as"),
        ("all=low_rank", "needs the hyper-parameter 'r'; it takes: r, factors"),
        ("all=low_rank(0)", "part low_rank: r must be at least 1: got 0"),
        ("all=low_rank(2.5)", "r must be a whole number: got 2.5"),
        ("all=low_rank(eight)", "r must be a whole number: got 'eight'"),
        ("all=low_rank(rank=8)", "no hyper-parameter 'rank'"),
        ("all=low_rank(8, factor=float32)", "did you mean 'factors'"),
        ("all=low_rank(8, factors=float64)", "must be 'bfloat16' or 'float32': got 'float64'"),
        ("all=low_rank(8, float32, 3)", "more values than hyper-parameters"),
        ("all=low_rank(8, r=8)", "r is given twice"),
        ("all=bits(17)", r"b must be in \[1, 16\]: got 17"),
        ("all=bits(rows=2)", "rows must be True or False"),
        ("all=ternary(0)", r"rho must be in \(0, 1\]: got 0"),
        ("all=ternary(.1, c=-1)", "c must be above 0"),
        ("all=drop(1)", r"p must be in \[0, 1\): got 1"),
        ("all=tall(-.1)", "lam must be at least 0"),
        ("all=tall(1e999)", "lam must be a finite number"),
        ("all=whole(1)", "it takes: none"),
        ("all=whole(r=1)", "it takes none"),
        ("all=low_rank(8", "is no part"),
        ("all=low_rank(__import__('os'))", "is no part"),
        ("all=3", "is no part"),
        ("all", "is no rule: write WHERE=PART"),
    ],
)
def test_refuses_by_name(text, message):
    with pytest.raises(UserError, match=message):
        parse_rules(text)


def test_refuses_more_blocks_than_there_are():
    for where in ("blocks:last(4)/all", "blocks:only(1,3)/all"):
        with pytest.raises(UserError, match="the model has 3 blocks"):
            find_rule(parse_rules(f"{where}=whole"), "model.norm.weight", (8,), 3)


@pytest.mark.parametrize("part", ["low_rank(2)", "bits_low_rank(1, 2)"])
def test_vectors_are_whole_and_stacks_refused(part):
    rule = parse_rules(f"all={part}")[0]
    trunk, expert = draw(9), draw(9, seed=1)
    stored = encode(rule, trunk, expert)
    assert list(stored) == ["whole"] and memory_bytes(rule, stored, (9,)) == 36
    assert torch.equal(decode(rule, trunk, stored), expert)
    with pytest.raises(UserError, match="is for matrices"):
        encode(rule, draw(2, 3, 4), draw(2, 3, 4))


def test_refuses_what_does_not_fit():
    rule, v = Rule("all", "whole"), example_experts()
    with pytest.raises(UserError, match=r"'w': the expert has the shape \(2, 3\), the trunk has \(3, 2\)"):
        encode(rule, draw(3, 2), draw(2, 3), name="w")
    with pytest.raises(UserError, match="parts are for floating types"):
        encode(rule, torch.arange(3), torch.arange(3))
    with pytest.raises(UserError, match="'model.norm.weight' is missing in the expert"):
        fewer = {name: t for name, t in v.base.items() if name != "model.norm.weight"}
        encode_expert(v.base, fewer, "norms=whole")
    parts = encode_expert(v.base, v.base, "norms=whole")
    with pytest.raises(UserError, match="but no rule"):
        switched(v.base, parts, "embeddings=whole")
    with pytest.raises(UserError, match="the field 'B' of part low_rank is missing|the field 'signs'"):
        embeddings = encode_expert(v.base, v.base, "embeddings=whole")
        switched(v.base, embeddings, "embeddings=low_rank(2)")


@pytest.mark.parametrize("directions", [1, 8])
def test_sizes_in_models(directions):
    "A model, N bits beside it, and two models with a mask for each direction."
    base = {"model.layers.0.mlp.up_proj.weight": draw(256, 128).bfloat16()}
    experts = {str(i): {name: t + 1 for name, t in base.items()} for i in range(directions)}
    n = 256 * 128

    def size(rules):
        shared = unify(base, experts, rules)
        parts = {who: encode_expert(base, expert, rules, shared) for who, expert in experts.items()}
        return size_in_models(n, parts, shared)

    assert size("") == 1
    assert size("all=whole") == 1 + directions
    assert size("all=bits") == pytest.approx(1 + directions / 16, abs=1e-3)
    assert size("all=tall(.4)") == pytest.approx(2 + directions / 16, abs=1e-3)
    assert size("all=low_rank(4)") == 1 + directions * 4 * (256 + 128) / n
    assert size("all=rows(.25)") == pytest.approx(1 + directions * 0.25, abs=4 * directions * 64 / n)
    few = {who: encode_expert(base, expert, "all=ternary(.05)") for who, expert in experts.items()}
    assert memory_in_models(base, few, "all=ternary(.05)") == pytest.approx(1 + directions / 8, abs=1e-2)
    assert memory_in_models(base, few, "all=ternary(.05)") > size_in_models(n, few)


def test_reads_checkpoints_from_disk():
    "A trunk and an expert that are mapped, not loaded, in any type."
    v, folder = example_experts(), DATA / "miniature"
    rules = "blocks:last(2)/projections=low_rank(2); all=bits"
    from_disk = encode_expert(Checkpoint(str(folder)), v.experts["en-hi"], rules)
    in_memory = encode_expert(v.base, v.experts["en-hi"], rules)
    assert from_disk.keys() == in_memory.keys()
    for name, stored in in_memory.items():
        assert all(torch.equal(from_disk[name][field], t) for field, t in stored.items())
    weights = switched(Checkpoint(str(folder)), from_disk, rules)
    assert weights.keys() == v.base.keys()


def test_reads_parameters_of_a_model():
    "Parameters that require gradients, transposed ones too."
    trunk = torch.nn.Parameter(draw(6, 8).T)
    expert = torch.nn.Parameter(draw(8, 6, seed=1))
    for rule in CASES:
        shared = shared_of(rule, trunk, [expert, expert])
        weights = decode(rule, trunk, encode(rule, trunk, expert, shared), shared)
        same = trunk.detach().contiguous()
        plain = decode(rule, same, encode(rule, same, expert.detach(), shared), shared)
        assert torch.equal(weights, plain) and not weights.requires_grad


def test_late_blocks_from_the_expert():
    "Routed blocks: the last blocks are the expert's, everything else the trunk's."
    v = example_experts()
    expert = v.experts["en-ta"]
    weights = switched(v.base, encode_expert(v.base, expert, "blocks:last(2)/all=whole"), "blocks:last(2)/all=whole")
    late = {name for name in v.base if name.startswith(("model.layers.4.", "model.layers.5."))}
    assert weights.keys() == late
    assert all(torch.equal(weights[name], expert[name]) for name in late)
