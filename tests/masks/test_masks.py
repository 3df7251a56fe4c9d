import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from masked_sae.errors import InputError
from masked_sae.masks.input import hide_inputs
from masked_sae.masks.latent import hide_latents
from masked_sae.masks.run_masks import kept_share, make_masks
from masked_sae.masks.token import TokenMask, draw_spans
from support.making import compose, token_mask

RATES, SPANS = [0.01, 0.1, 0.3, 0.7, 0.95], [1.0, 1.5, 4.0, 20.0]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def span_start(rate: float, span: float) -> float:
    """How often a span has to start at a position, at least: 1 - rate = (1 - s)(1 - rate q), solved for s."""
    q = 1 - 1 / span
    return 1 - (1 - rate) / (1 - rate * q)


def draw_spans_one_by_one(length: int, rate: float, span: float, seed: int) -> NDArray[np.bool_]:
    """Spans of geometric length, each cut short by the next that starts."""
    source, start = rng(seed), span_start(rate, span)
    mask_T = np.zeros(length, dtype=bool)
    starts = np.flatnonzero(source.random(length) < start)
    for first, following in zip(starts, [*starts[1:], length], strict=True):
        mask_T[first : min(first + source.geometric(1 / span), following)] = True
    return mask_T


def runs_of(mask_T: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Lengths of the stretches of masked positions, but for one that touches an end."""
    edges = np.flatnonzero(np.diff(mask_T.astype(int)))
    edges = edges[1:] if mask_T[0] else edges
    pairs = len(edges) // 2
    return edges[1 : 2 * pairs : 2] - edges[: 2 * pairs : 2]


@pytest.mark.parametrize("span", SPANS)
@pytest.mark.parametrize("rate", RATES)
def test_every_position_is_masked_at_the_rate(rate: float, span: float) -> None:
    sequences, length = 3000, 12
    masked_T = np.sum([draw_spans(source, length, rate, span) for source in [rng()] * sequences], axis=0)
    assert (abs(masked_T - sequences * rate) < 5 * math.sqrt(sequences * rate * (1 - rate))).all()


@pytest.mark.parametrize("span", SPANS)
@pytest.mark.parametrize("rate", RATES)
def test_masks_are_spans_of_the_mean_length(rate: float, span: float) -> None:
    """Spans that touch look like one: such runs are geometric with mean span / (1 - start)."""
    n = 100_000
    runs = runs_of(draw_spans(rng(), n, rate, span))
    mean = span / (1 - span_start(rate, span))
    assert abs(runs.mean() - mean) < 5 * math.sqrt(mean * (mean - 1) / len(runs)) + 1e-9
    other = runs_of(draw_spans_one_by_one(n, rate, span, seed=1))
    assert abs(runs.mean() - other.mean()) < 5 * math.sqrt(mean * (mean - 1) * (1 / len(runs) + 1 / len(other))) + 1e-9
    for length in (1, 2, 3):  # and not just in the mean
        expected = (1 - 1 / mean) ** (length - 1) / mean
        error = math.sqrt(expected * (1 - expected) / len(runs))
        assert abs((runs == length).mean() - expected) < 5 * error + 1e-9


@pytest.mark.parametrize("span", SPANS)
def test_the_extreme_rates_mask_nothing_and_everything(span: float) -> None:
    assert not draw_spans(rng(), 1000, 0.0, span).any()
    assert draw_spans(rng(), 1000, 1.0, span).all()


@settings(deadline=None)
@given(rate=st.floats(0, 1), span=st.floats(1, 1e6), length=st.integers(1, 40), seed=st.integers(0, 2**30))
def test_any_rate_and_span_give_a_mask(rate: float, span: float, length: int, seed: int) -> None:
    mask_T = draw_spans(rng(seed), length, rate, span)
    assert mask_T.shape == (length,)
    assert mask_T.dtype == bool


def a_batch(n: int = 40, length: int = 50) -> tuple[Tensor, Tensor]:
    """Tokens with a BOS (0) at the start and separators here and there, and which of them may be masked."""
    tokens_NT = torch.randint(1, 257, (n, length), generator=generator())
    tokens_NT[:, 0] = 0
    tokens_NT[torch.rand(n, length, generator=generator(1)) < 0.05] = 0
    return tokens_NT, tokens_NT != 0


def apply(mask: Any, tokens_NT: Tensor, maskable_NT: Tensor, first: int = 0) -> tuple[Tensor, Tensor]:
    n = len(tokens_NT)
    return mask.mask_tokens(tokens_NT, maskable_NT, list(range(first, first + n)), [0.5] * n)


@pytest.mark.parametrize("changes", [{}, {"span": 5.0}, {"schedule": "linear"}, {"replacement": None}])
def test_rate_0_gives_the_very_tokens(changes: dict[str, Any]) -> None:
    tokens_NT, maskable_NT = a_batch()
    masked_tokens_NT, masked_NT = apply(token_mask(0.0, **changes), tokens_NT, maskable_NT)
    assert torch.equal(masked_tokens_NT, tokens_NT)
    assert not masked_NT.any()


@pytest.mark.parametrize("replacement", [(0,), (256,), None])
def test_rate_1_replaces_every_maskable_token(replacement: tuple[int] | None) -> None:
    tokens_NT, maskable_NT = a_batch()
    masked_tokens_NT, masked_NT = apply(token_mask(1.0, replacement=replacement), tokens_NT, maskable_NT)
    assert torch.equal(masked_NT, maskable_NT)
    if replacement is not None:
        assert (masked_tokens_NT[maskable_NT] == replacement[0]).all()


@pytest.mark.parametrize("replacement", [(0,), (256,), None])
@pytest.mark.parametrize("span", [1.0, 4.0])
def test_only_masked_positions_change_and_special_ones_never_do(replacement: tuple[int] | None, span: float) -> None:
    tokens_NT, maskable_NT = a_batch()
    before_NT = tokens_NT.clone()
    masked_tokens_NT, masked_NT = apply(token_mask(0.4, replacement=replacement, span=span), tokens_NT, maskable_NT)
    assert torch.equal(tokens_NT, before_NT)
    assert torch.equal(masked_tokens_NT[~masked_NT], tokens_NT[~masked_NT])
    assert not (masked_NT & ~maskable_NT).any()
    if replacement is not None:
        assert (masked_tokens_NT[masked_NT] == replacement[0]).all()


@pytest.mark.parametrize("span", [1.0, 4.0])
def test_a_text_of_several_tokens_is_laid_over_the_masked_positions_in_turn(span: float) -> None:
    tokens_NT, maskable_NT = a_batch()
    masked_tokens_NT, masked_NT = apply(token_mask(0.4, replacement=(7, 300, 9), span=span), tokens_NT, maskable_NT)
    for row_T, masked_T in zip(masked_tokens_NT, masked_NT, strict=True):
        count = int(masked_T.sum())
        assert row_T[masked_T].tolist() == ([7, 300, 9] * count)[:count]
    assert torch.equal(masked_NT, apply(token_mask(0.4, span=span), tokens_NT, maskable_NT)[1])


@pytest.mark.parametrize("span", [1.0, 4.0])
@pytest.mark.parametrize("rate", [0.05, 0.3, 0.8])
def test_maskable_tokens_are_replaced_at_the_rate(rate: float, span: float) -> None:
    tokens_NT, maskable_NT = a_batch(600, 50)
    masked = [
        (apply(token_mask(rate, span=span), tokens_NT, maskable_NT, first)[1] & maskable_NT).sum(1).double()
        for first in (0, 1000)
    ]
    realised = torch.cat(masked).sum() / (2 * maskable_NT.sum())
    # Sequences are independent, positions within a span are not: the error comes from the sums of sequences.
    error = torch.cat(masked).std() * math.sqrt(1200) / (2 * maskable_NT.sum())
    assert abs(realised - rate) < 5 * error


@pytest.mark.parametrize("changes", [{}, {"span": 3.0}, {"replacement": None}])
def test_a_sequences_mask_depends_on_the_seed_and_its_ordinal_alone(changes: dict[str, Any]) -> None:
    tokens_NT, maskable_NT = a_batch()
    mask = token_mask(0.3, **changes)
    whole = mask.mask_tokens(tokens_NT, maskable_NT, list(range(40)), [0.5] * 40)
    order = torch.randperm(40, generator=generator())
    shuffled = mask.mask_tokens(tokens_NT[order], maskable_NT[order], order.tolist(), [0.1] * 40)
    alone = mask.mask_tokens(tokens_NT[7:8], maskable_NT[7:8], [7], [0.9])
    for x_NT, shuffled_NT, alone_NT in zip(whole, shuffled, alone, strict=True):
        assert torch.equal(shuffled_NT, x_NT[order])
        assert torch.equal(alone_NT, x_NT[7:8])
    _, other_seed_NT = apply(token_mask(0.3, seed=1, **changes), tokens_NT, maskable_NT)
    _, other_ordinals_NT = apply(mask, tokens_NT, maskable_NT, first=40)
    for other_NT in (other_seed_NT, other_ordinals_NT):
        agreement = (other_NT == whole[1])[maskable_NT].double().mean()
        assert agreement < 0.7  # chance gives 0.3^2 + 0.7^2 = 0.58


def test_random_replacements_are_spread_over_the_vocabulary_given() -> None:
    allowed = np.array([3, 5, 8, 200])
    tokens_NT, maskable_NT = a_batch(400)
    masked_tokens_NT, masked_NT = apply(token_mask(0.5, replacement=None, random_ids=allowed), tokens_NT, maskable_NT)
    written = masked_tokens_NT[masked_NT]
    counts = torch.stack([(written == token).sum() for token in allowed.tolist()]).double()
    assert counts.sum() == len(written)
    expected = len(written) / 4
    assert ((counts - expected).abs() < 5 * math.sqrt(expected * 0.75)).all()


@pytest.mark.parametrize("kind", ["neox", "bert"])
def test_a_runs_random_replacements_are_never_special(kind: str, request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(f"{kind}_tokenizer")
    mask = compose(["mask.token.replacement=random"]).mask["token"].make("token", tokenizer, seed=0)
    assert isinstance(mask, TokenMask)
    assert set(mask.random_ids.tolist()) == set(range(len(tokenizer))) - set(tokenizer.all_special_ids)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@given(rate=st.floats(0, 1), initial=st.floats(0, 1), done=st.floats(0, 1))
def test_schedules_go_from_the_initial_rate_to_the_rate(
    schedule: str, rate: float, initial: float, done: float
) -> None:
    mask = token_mask(rate, initial_rate=initial, schedule=schedule)
    assert mask.rate_at(0.0) == pytest.approx(initial)
    assert mask.rate_at(1.0) == pytest.approx(rate)
    assert mask.rate_at(0.5) == pytest.approx((rate + initial) / 2)
    assert min(rate, initial) - 1e-12 <= mask.rate_at(done) <= max(rate, initial) + 1e-12
    assert token_mask(rate, initial_rate=initial).rate_at(done) == rate


def test_a_step_schedule_has_the_last_rate_for_the_last_share_alone() -> None:
    mask = token_mask(0.0, initial_rate=0.3, schedule="step", last_share=0.25)
    assert [mask.rate_at(done) for done in (0.0, 0.5, 0.74, 0.75, 1.0)] == [0.3, 0.3, 0.3, 0.0, 0.0]
    always, never = (token_mask(0.1, initial_rate=0.3, schedule="step", last_share=share) for share in (1.0, 0.0))
    assert [always.rate_at(0.0), never.rate_at(0.99)] == [0.1, 0.3]


def test_a_cosine_schedule_is_level_at_both_ends() -> None:
    mask = token_mask(1.0, schedule="cosine")
    assert mask.rate_at(0.1) == pytest.approx(math.sin(0.05 * math.pi) ** 2)
    assert mask.rate_at(0.1) + mask.rate_at(0.9) == pytest.approx(1)
    assert token_mask(1.0, schedule="linear").rate_at(0.1) == pytest.approx(0.1)


def test_each_sequence_is_masked_at_the_rate_of_its_progress() -> None:
    tokens_NT, maskable_NT = a_batch(2000)
    progress = [i / 1999 for i in range(2000)]
    mask = token_mask(0.8, initial_rate=0.2, schedule="linear")
    _, masked_NT = mask.mask_tokens(tokens_NT, maskable_NT, list(range(2000)), progress)
    for rows, rate in ((slice(0, 100), 0.215), (slice(950, 1050), 0.5), (slice(1900, 2000), 0.785)):
        n = int(maskable_NT[rows].sum())
        assert abs(masked_NT[rows].sum() / n - rate) < 5 * math.sqrt(rate * (1 - rate) / n)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_latents_are_hidden_at_the_rate_and_never_chosen(rate: float) -> None:
    pre_BF = torch.randn(500, 200, generator=generator())
    hidden_BF = hide_latents(pre_BF, rate, generator(1))
    hidden = hidden_BF == -math.inf
    n = pre_BF.numel()
    assert abs(hidden.sum() - n * rate) < 5 * math.sqrt(n * rate * (1 - rate))
    assert torch.equal(hidden_BF[~hidden], pre_BF[~hidden])
    bound = 5 * math.sqrt(rate * (1 - rate))  # independent for each latent and each activation
    assert ((hidden.double().mean(0) - rate).abs() < bound / math.sqrt(500)).all()
    assert ((hidden.double().mean(1) - rate).abs() < bound / math.sqrt(200)).all()


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_inputs_are_hidden_at_the_rate_and_keep_their_mean(rate: float) -> None:
    x_BD = torch.randn(100, 50, generator=generator()).double() + 3
    draws = torch.stack([hide_inputs(x_BD, rate, generator(seed)) for seed in range(200)])
    zero = draws == 0
    n = zero.numel()
    assert abs(zero.sum() - n * rate) < 5 * math.sqrt(n * rate * (1 - rate))
    torch.testing.assert_close(draws[~zero], (x_BD / (1 - rate)).expand_as(draws)[~zero])
    error_BD = x_BD.abs() * math.sqrt(rate / (1 - rate) / 200)
    assert ((draws.mean(0) - x_BD).abs() < 6 * error_BD).all()


def test_hiding_at_rate_1_hides_all() -> None:
    x_BD = torch.randn(10, 20)
    assert (hide_latents(x_BD, 1.0, generator()) == -math.inf).all()
    assert (hide_inputs(x_BD, 1.0, generator()) == 0).all()


@pytest.mark.parametrize("hide", [hide_latents, hide_inputs])
def test_hiding_follows_its_generator(hide: Any) -> None:
    x_BD = torch.randn(10, 20)
    assert torch.equal(hide(x_BD, 0.5, generator(3)), hide(x_BD, 0.5, generator(3)))
    assert not torch.equal(hide(x_BD, 0.5, generator(3)), hide(x_BD, 0.5, generator(4)))


def test_masks_that_are_off_are_left_out_and_those_that_are_on_compose(neox_tokenizer: Any) -> None:
    settings = compose(["mask.token.rate=0.3", "mask.token.loss_positions=unmasked", "mask.input.rate=0.5"]).mask
    masks = make_masks(settings, neox_tokenizer, seed=0)
    assert list(masks.named) == ["token", "input"] and kept_share(settings) == pytest.approx(0.7)
    tokens_NT, maskable_NT = a_batch()
    text = masks.mask_tokens(tokens_NT, maskable_NT, list(range(40)), [0.5] * 40)
    assert torch.equal(text.counted_NT, ~text.masked_NT) and text.masked_NT.any()
    x_BD = torch.randn(4, 8)
    assert (masks.mask_inputs(x_BD, 3) == 0).any() and torch.equal(masks.mask_latents(x_BD, 3), x_BD)
    assert make_masks(compose(["mask=none"]).mask, neox_tokenizer, seed=0).named == {}


def test_two_masks_of_a_kind_draw_apart(neox_tokenizer: Any) -> None:
    second = "{_module_: masked_sae.masks.token, rate: 0.5, replacement: random}"
    settings = compose(["mask.token.rate=0.5", f"+mask.second={second}"]).mask
    tokens_NT, maskable_NT = a_batch()
    masked = [
        apply(mask, tokens_NT, maskable_NT)[1] for mask in make_masks(settings, neox_tokenizer, seed=0).named.values()
    ]
    agreement = (masked[0] == masked[1])[maskable_NT].double().mean()
    assert 0.45 < agreement < 0.55
    with pytest.raises(InputError, match=r"mask\.second\.replacement=mask: expected a token that this tokenizer has"):
        make_masks(
            compose(["+mask.second={_module_: masked_sae.masks.token, rate: 0.5, replacement: mask}"]).mask,
            neox_tokenizer,
            seed=0,
        )
