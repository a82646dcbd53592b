"""The design search: what it returns keeps its limits, is the best there is, and can be built."""

import json
import sys

import numpy as np
import pytest

from moe_leverage import cli
from moe_leverage.accounting import count_forward_flops, count_parameters
from moe_leverage.design import layouts, search
from moe_leverage.design import limits as bounds
from moe_leverage.design.export import write_hf
from moe_leverage.design.huggingface import load
from moe_leverage.design.limits import Limits
from moe_leverage.design.search import BEST_ATTENTION_SHARE, design
from moe_leverage.studies import likeness, yours
from moe_leverage.studies.catalogue import cells
from moe_leverage.theory.laws import PUBLISHED


def axes(found):
    e = found.explanation
    return e.activation_ratio, e.granularity, e.published.value


@pytest.mark.parametrize("compute", [1e18, 1e20, 1e22, 1e24])
def test_designs_spend_the_budget_at_the_optimum_of_table_1(compute):
    designs = design(Limits(compute=compute))
    assert len(designs) == 3
    for found in designs:
        e = found.explanation
        assert e.compute == pytest.approx(compute)
        assert 3 * e.flops_per_token["non_embedding"] == pytest.approx(
            PUBLISHED.moe_model(compute), rel=0.05
        )
        assert found.batch_tokens == pytest.approx(PUBLISHED.batch_tokens(compute), rel=0.05)
        assert found.learning_rate == PUBLISHED.learning_rate(compute)


def test_sizes_are_whole_and_friendly_to_hardware():
    for compute in (1e18, 1e20, 1e22, 1e24):
        for found in design(Limits(compute=compute, expert_parallel=16)):
            m = found.model
            assert m.d_head in (64, 128)
            assert m.d_head * m.num_heads == m.d_model
            assert m.d_model % 128 == 0
            assert m.d_expert % (64 if m.d_model >= 2048 else 16) == 0
            assert m.num_experts % 16 == 0
            assert 48 <= m.d_model / m.num_layers <= 160


def test_ling_mini_beta_comes_out_of_its_own_limits():
    """Asked for its budget, tokens and sparsity, the search ends next to the paper's own choice."""
    limits = Limits(compute=1e22, tokens=1e12, min_activation_ratio=0.031)
    (best, *others) = design(limits, 8)
    assert best.explanation.granularity == pytest.approx(10.67, rel=0.1)
    assert best.explanation.active_params == pytest.approx(0.855e9, rel=0.4)
    widths = {found.model.d_model: found.model for found in (best, *others)}
    assert widths[2048].num_layers == pytest.approx(20, abs=4)
    assert widths[2048].d_expert == 384


def test_limits_are_kept_and_said_to_bind():
    (free,) = design(Limits(compute=1e22), 1)
    assert free.binding[0].constraint == "min_activation_ratio"
    limits = Limits(compute=1e22, max_total_params=60e9)
    (small,) = design(limits, 1)
    assert small.explanation.parameters["total"] <= 60e9 < free.explanation.parameters["total"]
    (binding,) = small.binding
    assert (binding.constraint, binding.limit) == ("max_total_params", 60e9)
    assert binding.value == small.explanation.parameters["total"]
    assert small.explanation.published.value < free.explanation.published.value


def test_a_binding_limit_would_be_broken_by_one_step_more():
    (found,) = design(Limits(compute=1e22, max_total_params=60e9), 1)
    m = found.model
    more = type(m)(**{**m.to_dict(), "routing": m.routing, "num_experts": m.num_experts + 8})
    assert count_parameters(more).total > 60e9


def test_memory_of_a_rank_falls_with_expert_parallelism():
    limits = {"compute": 1e22, "max_memory_gb": 120.0}
    few, many = (design(Limits(**limits, expert_parallel=n), 1)[0] for n in (16, 64))
    for found, ranks in ((few, 16), (many, 64)):
        p = found.explanation.parameters
        bytes_a_rank = 16 * (p["total"] - p["routed_experts"] + p["routed_experts"] / ranks)
        assert found.memory_per_rank_gb == pytest.approx(bytes_a_rank / 1e9)
        assert found.memory_per_rank_gb <= 120
        assert found.model.num_experts % ranks == 0
        assert "expert_parallel" in {bound.constraint for bound in found.binding}
    assert many.explanation.published.value > few.explanation.published.value


def test_tokens_fix_the_size_of_the_model():
    for tokens in (3e11, 1e12):
        (found,) = design(Limits(compute=1e22, tokens=tokens), 1)
        assert 0.95 * tokens <= found.explanation.tokens <= tokens  # a limit is a limit
        assert any(bound.constraint == "tokens" for bound in found.binding)


def test_key_value_heads_divide_over_ranks():
    heads = np.arange(1, 129)
    found = layouts.kv_heads(heads)
    assert (heads % found == 0).all()
    assert all(n % r == 0 for h, n in zip(heads, found, strict=True) for r in (2, 4, 8)
               if h % (4 * r) == 0)  # fmt: skip
    assert found[np.isin(heads, (16, 20, 24, 32))].tolist() == [4, 4, 4, 8]


def test_vocabulary_and_length_are_those_asked_for():
    (found,) = design(Limits(compute=1e22, vocab_size=32_000, sequence_length=8192), 1)
    assert (found.model.vocab_size, found.explanation.sequence_length) == (32_000, 8192)
    assert found.batch_tokens % 8192 == 0


def test_the_objective_trades_leverage_for_memory():
    best, between, least = (
        design(Limits(compute=1e22, objective=weight), 1)[0].explanation for weight in (1, 0.5, 0)
    )
    totals = [entry.parameters["total"] for entry in (best, between, least)]
    assert totals[0] > 2 * totals[1] > 4 * totals[2]
    assert best.published.value > between.published.value > least.published.value


def test_no_design_of_the_frontier_is_better_by_an_objective_between():
    asked = Limits(compute=1e22, objective=0.5)
    (found,) = design(asked, 1)
    spread = [entry.explanation for entry in (*search.frontier(asked), *design(
        Limits(compute=1e22, objective=0), 1))]  # fmt: skip
    values = np.log([entry.published.value for entry in (*spread, found.explanation)])
    totals = np.log([entry.parameters["total"] for entry in (*spread, found.explanation)])
    scores = values / np.ptp(values) - totals / np.ptp(totals)
    assert scores[-1] >= scores[:-1].max() - 0.05
    assert [binding.constraint for binding in found.binding] == ["objective"]


def test_the_frontier_buys_leverage_with_parameters():
    found = [entry.explanation for entry in search.frontier(Limits(compute=1e22))]
    values = [entry.published.value for entry in found]
    assert len(found) >= 4
    assert values == sorted(values)


def test_the_frontier_shows_what_lies_beyond_the_limit():
    limits = Limits(compute=1e22, max_total_params=20e9)
    (best,) = design(limits, 1)
    found = search.frontier(limits)
    within = [entry.explanation.published.value for entry in found if entry.within(limits)]
    beyond = [entry.explanation.published.value for entry in found if not entry.within(limits)]
    assert max(within) == best.explanation.published.value < min(beyond)
    assert len(beyond) >= 2
    ranks = Limits(compute=1e22, max_memory_gb=150.0, expert_parallel=8)
    held = [entry.within(ranks) for entry in search.frontier(ranks)]
    assert True in held
    assert False in held


def test_no_shape_at_random_within_the_limits_does_better():
    limits = Limits(compute=1e22, max_total_params=60e9, min_activation_ratio=0.02)
    (best,) = design(limits, 1)
    generator = np.random.default_rng(0)
    tried = 0
    for _ in range(8000):
        d_model = 512 * int(generator.integers(4, 12))
        d_expert = 64 * int(generator.integers(2, 16))
        active = int(generator.integers(1, 32))
        if not 2 <= (active + 1) * d_expert / d_model <= 4 or not 2 <= 2 * d_model / d_expert <= 16:
            continue
        shape = type(best.model)(
            vocab_size=126_464,
            num_layers=int(generator.integers(d_model // 160 + 1, d_model // 48)),
            d_model=d_model, num_heads=d_model // 128, num_kv_heads=d_model // 512,
            num_experts=8 * int(generator.integers(active // 8 + 1, 100)),
            num_active_experts=active, num_shared_experts=1, d_expert=d_expert,
            num_dense_layers=1, d_ffn=(active + 1) * d_expert,
        )  # fmt: skip
        flops = count_forward_flops(shape, 4096)
        attention = flops.attention_projections + flops.attention_scores
        kept = (
            count_parameters(shape).total <= 60e9
            and shape.activation_ratio >= 0.02
            and attention <= 0.5 * flops.non_embedding
            and abs(3 * flops.non_embedding / PUBLISHED.moe_model(1e22) - 1) <= 0.045
        )
        if kept:
            tried += 1
            leverage = PUBLISHED.joint(
                activation_ratio=shape.activation_ratio, granularity=shape.granularity, compute=1e22
            )
            assert leverage <= best.explanation.published.value * 1.01
    assert tried >= 10


def attention_share(found):
    flops = found.explanation.flops_per_token
    return (flops["attention_projections"] + flops["attention_scores"]) / flops["non_embedding"]


def test_no_shape_has_more_attention_than_the_most_where_another_can(monkeypatch):
    monkeypatch.setattr(search, "MAX_ATTENTION_SHARE", 0.3)
    assert all(attention_share(found) <= 0.3 for found in design(Limits(compute=1e22)))
    monkeypatch.setattr(search, "MAX_ATTENTION_SHARE", 0.0)
    assert design(Limits(compute=1e22))


def test_equals_in_leverage_are_ordered_by_attention_share():
    designs = design(Limits(compute=1e22))
    share = attention_share(designs[0])
    low, high = BEST_ATTENTION_SHARE
    assert low - 0.01 <= share <= high + 0.01
    best = max(axes(found)[2] for found in designs)
    assert axes(designs[0])[2] >= 0.99 * best


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"compute": 1e12}, r"compute = 10+\.0: cannot be met: the smallest"),
        ({"compute": 1e27}, "the largest shape searched is 3.5 times off"),
        ({"compute": 1e22, "tokens": 1e15}, r"tokens = 10+\.0: cannot be met: the smallest"),
        ({"compute": 1e22, "max_total_params": 1e9}, r"max_total_params = .* 4\.\d+ times off"),
        ({"compute": 1e22, "max_memory_gb": 8.0, "expert_parallel": 64}, "max_memory_gb = 8.0"),
        (
            {"compute": 1e22, "min_activation_ratio": 0.9, "expert_parallel": 64},
            "min_activation_ratio = 0.9: cannot be met: the most that any shape reaches is 0.49",
        ),
        (
            {
                "compute": 1e22,
                "expert_parallel": 64,
                "max_total_params": 7.8e9,
                "max_memory_gb": 25.7,
            },
            r"compute = 1e\+22: cannot be met: within the other limits .* 1\.0\d times off",
        ),
    ],
)
def test_what_cannot_be_met_is_named_with_its_distance(asked, message):
    with pytest.raises(ValueError, match=message) as raised:
        design(Limits(**asked))
    assert "times off" in str(raised.value)


def test_limits_met_apart_but_not_together_are_named_together():
    """A dense-heavy shape has fewer parameters, an expert-heavy one the smaller rank."""
    d_model, d_expert = np.array([4096, 2048]), np.array([128, 512])
    grid = layouts.as_model(d_model, d_expert, np.array([32, 4]), np.array([40, 40]), 126_464)
    fewest = np.array([64.0, 64.0])
    costs = bounds.costs_of(grid, Limits(compute=1e22, expert_parallel=64))
    totals, ranks = (base + fewest * slope for base, slope in costs.values())
    assert totals[0] < totals[1]
    assert ranks[0] > ranks[1]
    asked = Limits(
        compute=1e22, expert_parallel=64, max_total_params=totals[0], max_memory_gb=ranks[1]
    )
    with pytest.raises(ValueError, match=r"max_total_params, max_memory_gb = .* met together"):
        bounds.require_feasible(grid, fewest, asked)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("compute", 0.0),
        ("compute", float("nan")),
        ("tokens", -1.0),
        ("max_total_params", float("inf")),
        ("max_memory_gb", 0.0),
        ("min_activation_ratio", 0.0),
        ("min_activation_ratio", 1.1),
        ("expert_parallel", 0),
        ("vocab_size", 0),
        ("objective", 1.5),
    ],
)
def test_impossible_limits_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} = "):
        Limits(**{"compute": 1e22} | {name: value})


def test_verb_writes_the_config_of_the_best_design(tmp_path, monkeypatch, capsys):
    path = tmp_path / "x.json"
    arguments = ["design", "--compute", "1e22", "--max-total-params", "20e9", "--hf", str(path)]
    monkeypatch.setattr(sys, "argv", ["moe-leverage", *arguments, "--json"])
    with pytest.raises(SystemExit) as left:
        cli.main()
    best = json.loads(capsys.readouterr().out)["designs"][0]
    assert left.value.code == 0
    assert best["parameters"]["total"] <= 20e9
    assert best["binding"][0]["constraint"] == "max_total_params"
    read = load(path)
    assert read.assumptions == ()
    assert count_parameters(read.model).total == best["parameters"]["total"]
    assert read.model.to_dict() == best["model"]


def test_every_design_says_what_would_check_it(tmp_path, monkeypatch, capsys):
    """The study it writes is one that `study plan` takes: trainable, and of distinct runs."""
    path = tmp_path / "check.toml"
    limits = ["--compute", "1e22", "--max-total-params", "20e9", "--tokens", "1e12"]
    monkeypatch.setattr(sys, "argv", ["moe-leverage", "design", *limits, "--study", str(path)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr().out
    assert ended.value.code == 0
    assert [f"design {i}: to check it small" in said for i in (1, 2, 3)] == [True] * 3
    assert f"study plan {path}" in said
    written = yours.load(path)
    assert written.against == "dense"
    assert len(written.designs) >= 2
    tasks = cells(written.study)
    spent = sum(task.point.budget_flops for task in tasks)
    assert spent == pytest.approx(likeness.total_flops(len(written.designs) - 1))


def test_two_outputs_are_two_files(tmp_path, monkeypatch, capsys):
    path, again = tmp_path / "one", tmp_path / "." / "one"
    both = ["--hf", str(path), "--study", str(again)]
    monkeypatch.setattr(sys, "argv", ["moe-leverage", "design", "--compute", "1e22", *both])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert "is an input or another output; name another file" in capsys.readouterr().err
    assert not path.exists()


def test_designs_that_are_alike_when_small_are_one_and_none_is_refused():
    point = likeness.likeness(0.0117, 12)
    assert point.granularity < 12
    assert "[designs.design-1-and-design-2]" in likeness.study(
        {"design-1": point, "design-2": point}
    )
    assert likeness.likeness(0.001, 12) is None
    with pytest.raises(ValueError, match=r"study = .*nothing to write"):
        likeness.study({"design-1": None})


def test_a_file_is_written_over_only_by_force(tmp_path):
    (found,) = design(Limits(compute=1e22), 1)
    path = tmp_path / "x.json"
    write_hf(found.model, path)
    with pytest.raises(ValueError, match="exists; --force writes over it"):
        write_hf(found.model, path)
    write_hf(found.model, path, force=True)
    with pytest.raises(ValueError, match=r"the folder .*none does not exist"):
        write_hf(found.model, tmp_path / "none" / "x.json")


@pytest.mark.slow
def test_transformers_builds_the_design_with_the_promised_parameters(tmp_path):
    import torch
    import transformers

    (found,) = design(Limits(compute=1e22, max_total_params=20e9), 1)
    write_hf(found.model, tmp_path / "x.json")
    config = transformers.AutoConfig.from_pretrained(tmp_path / "x.json")
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    built = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert built == found.explanation.parameters["total"]


def test_a_limit_holds_up_to_itself_and_a_size_on_both_sides():
    limits = Limits(compute=1e22, max_memory_gb=80.0)
    assert limits.hold(1e9, 80.0)
    assert not limits.hold(1e9, 80.1)
    bounds.require_near(np.array([0.5, 1.04]), limits)
    for size in (0.9, 1.1):
        with pytest.raises(ValueError, match="the nearest size is"):
            bounds.require_near(np.array([size]), limits)
    bounds.require_reachable(np.array([0.1]), np.array([0.96]), limits)  # both within 5 %
    bounds.require_reachable(np.array([1.04]), np.array([9.0]), limits)
    for smallest, largest in ((1.06, 9.0), (0.1, 0.94)):
        with pytest.raises(ValueError, match="shape searched is"):
            bounds.require_reachable(np.array([smallest]), np.array([largest]), limits)
