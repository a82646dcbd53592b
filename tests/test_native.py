"""The C++ functions of a compiled step, each beside its plain counterpart."""

import platform
import types

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from moe_leverage.model import dispatch, grouped, kernels, routing
from moe_leverage.model.native import door
from moe_leverage.model.native import functions as native

SIZES = st.sampled_from([16, 32, 48, 80])


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def assert_near(found: Tensor, expected: Tensor, size: float = 1) -> None:
    """Equal but for the rounding of fp32, judged by the largest value there is, or by `size`."""
    scale = size * (1 + expected.abs().max().item())
    torch.testing.assert_close(found, expected.to(found.dtype), rtol=0, atol=1e-5 * scale)


# --- attention ------------------------------------------------------------------------------------


def turns_of(length: int, pairs: int) -> Tensor:
    angles = torch.outer(torch.arange(length), 50.0 ** -torch.linspace(0, 1, max(pairs, 1))[:pairs])
    return torch.stack((angles.cos(), angles.sin()), dim=-1)


@given(
    batch=st.integers(1, 3),
    heads=st.sampled_from([(1, 1), (2, 1), (4, 2), (3, 3)]),
    length=st.sampled_from([32, 64, 96, 256]),
    width=st.sampled_from([16, 32, 48, 128]),
    turned=st.sampled_from([0.0, 0.5, 1.0]),
    size=st.sampled_from([0.1, 1.0, 5.0]),
)
@settings(deadline=None, max_examples=40)
def test_attention_and_its_gradient(batch, heads, length, width, turned, size):
    """Beside the expression of the paper in double precision, heads peaked and flat."""
    num_heads, num_kv_heads = heads
    turns = turns_of(length, int(turned * width) // 2)
    packed = size * random(batch, length, (num_heads + 2 * num_kv_heads) * width)
    packed.requires_grad_()
    exact = packed.detach().double().requires_grad_()
    with sdpa_kernel(SDPBackend.MATH):
        expected = kernels.attention(exact, turns.double(), num_heads, num_kv_heads)
    found = native.attention(packed, turns, num_heads, num_kv_heads)
    rounding = max(1, size**2)  # scores grow with the square, and so does what they are rounded by
    assert_near(found, expected, rounding)
    weights = random(*found.shape, seed=1)
    (slope,) = torch.autograd.grad((found * weights).sum(), packed)
    (expected_slope,) = torch.autograd.grad((expected * weights).sum(), exact)
    assert_near(slope, expected_slope, rounding)


def test_attention_sees_no_later_position():
    packed, turns = random(2, 96, 4 * 16), turns_of(96, 8)
    changed = packed.clone()
    changed[:, 50:] += 1
    before, after = (native.attention(packing, turns, 2, 1) for packing in (packed, changed))
    assert torch.equal(before[:, :50], after[:, :50])
    assert not torch.isclose(before[:, 50:], after[:, 50:]).all(dim=-1).any()


def test_attention_of_enormous_scores_is_that_of_one_key():
    """No overflow: the largest score of a query is subtracted before the exponential."""
    packed = 1e4 * random(1, 32, 3 * 16)
    found = native.attention(packed, turns_of(32, 0), 1, 1)
    query, key, value = packed[0].double().split(16, dim=-1)
    scores = (query @ key.t()).masked_fill(torch.ones(32, 32).triu(1).bool(), -torch.inf)
    assert_near(found[0], value[scores.argmax(dim=-1)])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_is_not_hidden(bad):
    packed = random(1, 64, 3 * 16)
    packed[0, 40, 3] = bad  # of a query
    found = native.attention(packed, turns_of(64, 8), 1, 1)
    assert found[0, 40].isnan().all()
    assert found[0, :40].isfinite().all()


# --- products, selection and places ---------------------------------------------------------------


def chosen_of(experts: int, tokens: int, seed: int) -> tuple[Tensor, Tensor]:
    """Experts of each token, evenly or hardly spread, and their counts."""
    favour = random(experts, seed=seed) * (seed % 5)
    chosen = (random(tokens, experts, seed=seed + 1) + favour).topk(1 + seed % experts).indices
    return chosen, routing.count(chosen, experts)


@given(st.integers(1, 9), st.integers(1, 300), SIZES, SIZES, st.integers(0, 99))
@settings(deadline=None, max_examples=60)
def test_products_whatever_the_loads(experts, tokens, wide_in, wide_out, seed):
    chosen, counts = chosen_of(experts, tokens, seed)
    at = dispatch.place(chosen, counts)
    x, y = random(tokens, wide_in, seed=seed), random(tokens, wide_out, seed=seed + 1)
    rows, others = x[at.tokens], y[at.tokens]
    weights = random(experts, wide_in, wide_out, seed=seed + 2)
    exact = grouped.multiply(rows.double(), weights.double(), at.ends)
    assert_near(native.multiply(rows, weights, at.ends), exact)
    assert_near(native.multiply(x, weights, at.ends, at.tokens), exact)
    back = grouped.multiply(others.double(), weights.double().transpose(1, 2), at.ends)
    assert_near(native.multiply(others, weights.transpose(1, 2), at.ends), back)
    assert_near(native.multiply(y, weights.transpose(1, 2), at.ends, at.tokens), back)
    slopes = grouped.outer(rows.double(), others.double(), at.ends)
    for mine, where in ((rows, None), (x, at.tokens)):
        for theirs, where_others in ((others, None), (y, at.tokens)):
            found = native.outer(mine, theirs, at.ends, where, where_others)
            assert_near(found, slopes)
            assert found[counts == 0].eq(0).all()  # an expert without tokens learns nothing


def test_a_product_takes_its_matrices_however_they_lie_in_memory():
    chosen, counts = chosen_of(5, 30, 3)
    at = dispatch.place(chosen, counts)
    rows, weights = random(len(at.tokens), 16), random(5, 16, 32)
    expected = grouped.multiply(rows, weights, at.ends)
    for matrices in (
        weights.transpose(1, 2).contiguous().transpose(1, 2),
        torch.randn(5, 16, 40)[..., 4:36].copy_(weights),
        torch.randn(5, 16, 64)[..., ::2].copy_(weights),
        torch.randn(16, 5, 32).transpose(0, 1).copy_(weights),
    ):
        assert_near(native.multiply(rows, matrices, at.ends), expected)
    every_second = torch.randn(len(at.tokens), 32)[:, ::2].copy_(rows)
    assert_near(native.multiply(every_second, weights, at.ends), expected)


@given(st.integers(1, 60), st.integers(1, 150), st.integers(0, 99))
@settings(deadline=None, max_examples=60)
def test_selection_and_places(tokens, experts, seed):
    scores = random(tokens, experts, seed=seed)
    count = 1 + seed % min(experts, 9)
    chosen = native.largest(scores, count)
    assert torch.equal(chosen, scores.topk(count).indices)
    counts = routing.count(chosen, experts)
    at = dispatch.place(chosen, counts)
    for found, expected in zip(
        native.place(chosen, counts), (at.tokens, at.slots, at.ends), strict=True
    ):
        assert torch.equal(found, expected)


def test_selection_is_valid_among_equals_and_without_numbers():
    assert native.largest(torch.tensor([[1.0, 2.0, 1.0, 2.0]]), 3).tolist() == [[1, 3, 0]]
    for score in (float("nan"), -torch.inf):
        assert native.largest(torch.full((1, 5), score), 3).tolist() == [[0, 1, 2]]


# --- all of them ----------------------------------------------------------------------------------


def everything(threads: int) -> list[Tensor]:
    """Values and gradients of one call of each function."""
    packed, turns = random(2, 256, 8 * 32).requires_grad_(), turns_of(256, 16)
    scores, x, weights = random(500, 12), random(500, 64), random(12, 64, 112)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        mixed = native.attention(packed, turns, 4, 2)
        (slope,) = torch.autograd.grad(mixed.square().sum(), packed)
        chosen = native.largest(scores, 3)
        tokens, slots, ends = native.place(chosen, routing.count(chosen, 12))
        wide = native.multiply(x, weights, ends, tokens)
        narrow = native.multiply(wide, weights.transpose(1, 2), ends)
        outer = native.outer(x, wide, ends, tokens)
        return [mixed.detach(), slope, chosen, slots, wide, narrow, outer]
    finally:
        torch.set_num_threads(before)


def test_threads_and_repetition_change_no_bit():
    first = everything(1)
    for threads in (1, 2, 3):
        assert all(torch.equal(a, b) for a, b in zip(first, everything(threads), strict=True))


@pytest.fixture
def fresh_build():
    """Libraries are built anew inside, and as usual afterwards."""
    native.library.cache_clear()
    yield
    native.library.cache_clear()


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="names a processor of this family")
def test_the_width_of_the_vectors_changes_no_bit(monkeypatch, fresh_build):
    """Every sum runs over its terms in their order, whatever stands side by side."""
    wide = everything(2)
    flags = tuple("-march=x86-64-v3" if f == "-march=native" else f for f in native.FLAGS)
    monkeypatch.setattr(native, "FLAGS", flags)
    native.library.cache_clear()
    assert all(torch.equal(a, b) for a, b in zip(wide, everything(2), strict=True))


def test_operators_keep_the_rules_of_torch():
    packed, turns = random(1, 32, 4 * 16).requires_grad_(), turns_of(32, 8)
    torch.library.opcheck(native._attention, (packed, turns, 2, 1))
    chosen, counts = chosen_of(3, 20, 1)
    at = dispatch.place(chosen, counts)
    x, weights = random(20, 16), random(3, 16, 32)
    rows = x[at.tokens]
    torch.library.opcheck(native._multiply, (rows, weights, at.ends, None))
    torch.library.opcheck(native._multiply, (x, weights, at.ends, at.tokens))
    torch.library.opcheck(native._outer, (rows, x, at.ends, None, at.tokens))
    torch.library.opcheck(native._largest, (random(20, 7), 3))
    torch.library.opcheck(native._place, (chosen, counts))


def takes(operation: str, tensor: Tensor, *widths: int) -> bool:
    return door.OPERATIONS[operation].takes(tensor, *widths)


def test_what_the_operators_take():
    rows = torch.zeros(4, 32)
    for product in ("multiply", "outer"):
        assert takes(product, rows, 16, 128)
        assert not takes(product, rows, 16, 24)
    for operation in ("multiply", "outer", "gather", "largest"):
        assert takes(operation, rows)
        for other in (rows.double(), rows.bfloat16(), rows.to("meta")):
            assert not takes(operation, other)
    assert takes("place", torch.zeros(4, 2, dtype=torch.int64))
    assert not takes("place", torch.zeros(4, 2, dtype=torch.int64, device="meta"))
    heads = torch.zeros(2, 64, 6 * 16)
    assert takes("attention", heads, 16)
    assert not takes("attention", heads, 8)
    assert not takes("attention", heads[:, :40], 16)  # not in blocks of 32
    assert not takes("attention", torch.zeros(1, 32, 3 * 144), 144)


def test_only_a_step_that_is_compiled_goes_through_the_door(monkeypatch):
    rows = torch.zeros(4, 32)
    assert not door.runs_here("largest", rows)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert door.runs_here("largest", rows)
    assert not door.runs_here("largest", rows.double())


def test_every_operator_has_a_place_in_the_table():
    inner = {"name_of_compiler"}
    public = {
        name
        for name, value in vars(native).items()
        if isinstance(value, types.FunctionType) and not name.startswith("_")
    }
    assert public - inner == set(door.OPERATIONS) - {"gather"}  # which is calling none


def test_the_door_names_every_condition():
    lines = dict(zip(door.OPERATIONS, door.why().splitlines(), strict=True))
    assert all(line.startswith(f"{name} (") for name, line in lines.items())
    attention = "(fp32, widths in multiples of 16, up to 128, sequences in multiples of 32)"
    assert attention in lines["attention"]


@pytest.mark.parametrize("compiler", ["/bin/false", "no-such-compiler"])
def test_a_compiler_that_fails_is_named(compiler, monkeypatch, fresh_build):
    monkeypatch.setenv("CXX", compiler)
    rule = f"compile = True: needs a C\\+\\+ compiler that builds routing.cpp; {compiler} says: "
    with pytest.raises(ValueError, match=rule):
        native.library("routing")


def test_nothing_that_was_built_is_left_behind(tmp_path, monkeypatch, fresh_build):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    native.library("routing")
    assert not list(tmp_path.iterdir())
