"""Axes: N sequences, T positions, B activations, D `d_in`, W activations of a window."""

import gc
import itertools
import math
import re
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from masked_sae.activations.lm import LM, load_lm
from masked_sae.activations.plan import Plan
from masked_sae.activations.scale import ActivationStatistics, measure_statistics
from masked_sae.activations.sequences import ShuffledSequences, make_sequences
from masked_sae.activations.stream import ActivationStream, Batch
from masked_sae.activations.windows import Point, Windows
from masked_sae.errors import InputError, NonFiniteError
from masked_sae.masks.run_masks import Masks
from masked_sae.masks.token import TokenMask
from masked_sae.randomness import permute
from support.making import D_IN, HOOK, distinct_tokens, make_neox, token_mask

CONTEXT, BATCH, WINDOW = 24, 32, 128


def some_tokens(lm: LM, count: int = 6000, seed: int = 0) -> np.ndarray:
    """Ordinary tokens of this LM with a separator every 40 or so."""
    special = lm.special
    ordinary = np.setdiff1d(np.arange(lm.vocab_size), special.ids)
    rng = np.random.default_rng(seed)
    tokens = rng.choice(ordinary, size=count).astype(np.uint16)
    tokens[rng.random(count) < 1 / 40] = special.separator
    return tokens


def a_stream(
    lm: LM,
    mask: TokenMask | None = None,
    *,
    tokens: np.ndarray | None = None,
    kept_share: float = 0.95,
    train_tokens: int = 12 * BATCH,
    window_tokens: int = WINDOW,
    lm_batch_size: int = 4,
    seed: int = 0,
    scale: float = 1.0,
) -> ActivationStream:
    sequences = shuffled(lm, tokens, seed)
    plan = Plan.make(BATCH, window_tokens, train_tokens, sequences.content_length, kept_share)
    masks = Masks({} if mask is None else {"token": mask})
    return ActivationStream(
        Windows(lm, sequences, plan, masks, [Point(lm.hook_name, scale)], lm_batch_size=lm_batch_size, seed=seed)
    )


def shuffled(lm: LM, tokens: np.ndarray | None = None, seed: int = 0) -> ShuffledSequences:
    return ShuffledSequences(make_sequences(some_tokens(lm) if tokens is None else tokens, CONTEXT, lm.special), seed)


def statistics(lm: LM, count: int, tokens: np.ndarray | None = None) -> ActivationStatistics:
    (found,) = measure_statistics([lm], shuffled(lm, tokens), count, batch_size=4)
    if isinstance(found, NonFiniteError):
        raise found
    return found


def batches(stream: ActivationStream, start: int) -> Iterator[Batch]:
    """Batches `start` to the last."""
    return (stream.batch(index) for index in range(start, stream.plan.steps))


def random_mask(lm: LM, rate: float = 0.3, **changes: Any) -> TokenMask:
    ordinary = np.setdiff1d(np.arange(lm.vocab_size), lm.special.ids)
    return token_mask(rate, replacement=None, random_ids=ordinary, **changes)


@pytest.fixture(params=["neox", "bert"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def lm(kind: str, request: pytest.FixtureRequest) -> LM:
    return request.getfixturevalue(kind)


def peer_of(folder: Path) -> Callable[[Tensor], Tensor]:
    """Hugging Face's own residual stream after the second block."""
    from transformers import AutoModel

    peer = AutoModel.from_pretrained(folder).eval()

    @torch.inference_mode()
    def run(tokens_NT: Tensor) -> Tensor:
        return peer(tokens_NT, output_hidden_states=True).hidden_states[2]

    return run


@pytest.fixture
def hidden_states(kind: str, request: pytest.FixtureRequest) -> Callable[[Tensor], Tensor]:
    return peer_of(request.getfixturevalue(f"{kind}_folder"))


def embedding_of(lm: LM) -> Tensor:
    return next(p for n, p in lm.bridge.named_parameters() if p.shape == (260, D_IN) and "embed" in n)


@contextmanager
def read_by(lm: LM) -> Generator[list[Tensor]]:
    """The token ids (N, T) of each of the LM's forwards."""
    seen: list[Tensor] = []
    words = next(m for n, m in lm.bridge.named_modules() if isinstance(m, torch.nn.Embedding) and "pos" not in n)
    handle = words.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].clone()))
    try:
        yield seen
    finally:
        handle.remove()


def in_some_order(*columns_BD: Tensor) -> Tensor:
    """The rows of the columns side by side, sorted by a fixed random projection of the first: a multiset of rows."""
    direction_D = torch.randn(columns_BD[0].shape[1], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.cat(columns_BD, dim=1)[(columns_BD[0].double() @ direction_D).argsort()]


def same_batch(a: Batch, b: Batch) -> bool:
    return torch.equal(a.x_BD, b.x_BD) and torch.equal(a.target_BD, b.target_BD) and a.masked_share == b.masked_share


# Sequences and plan


def test_sequences_frame_stretches_of_the_store(lm: LM) -> None:
    tokens, special = some_tokens(lm), lm.special
    sequences = make_sequences(tokens, CONTEXT, special)
    content = CONTEXT - len(special.prefix) - len(special.suffix)
    tokens_NT, kept_NT = sequences.read(np.array([2, 0, len(sequences) - 1]))
    for row, index in enumerate((2, 0, len(sequences) - 1)):
        stretch = tokens[index * content : (index + 1) * content].tolist()
        assert tokens_NT[row].tolist() == [*special.prefix, *stretch, *special.suffix]
        kept = [False] * len(special.prefix) + [t not in special.ids for t in stretch] + [False] * len(special.suffix)
        assert kept_NT[row].tolist() == kept
    assert len(sequences) == len(tokens) // content


def test_a_corpus_of_exactly_one_context_is_enough(neox: LM) -> None:
    assert len(make_sequences(distinct_tokens(CONTEXT - 1), CONTEXT, neox.special)) == 1
    with pytest.raises(
        InputError, match=rf"data\.context_length={CONTEXT}: expected at most {CONTEXT - 1}: .*22 tokens"
    ):
        make_sequences(distinct_tokens(CONTEXT - 2), CONTEXT, neox.special)


def test_a_context_of_special_tokens_alone_is_refused(bert: LM) -> None:
    with pytest.raises(InputError, match=r"data\.context_length=2"):
        make_sequences(distinct_tokens(100), 2, bert.special)


PLANS = {
    "batch_size": st.integers(1, 4096),
    "window_tokens": st.integers(1, 10**6),
    "train_tokens": st.integers(1, 10**8),
    "content_length": st.integers(1, 2048),
    "kept_share": st.floats(0.01, 1),
}


@given(**PLANS)
def test_a_plan_stays_within_what_was_asked_for(
    batch_size: int, window_tokens: int, train_tokens: int, content_length: int, kept_share: float
) -> None:
    train_tokens, window_tokens = max(train_tokens, batch_size), max(window_tokens, batch_size)
    plan = Plan.make(batch_size, window_tokens, train_tokens, content_length, kept_share)
    assert plan.window_tokens <= window_tokens
    assert train_tokens - batch_size < plan.steps * batch_size <= train_tokens
    assert plan.windows * plan.batches_per_window >= plan.steps > (plan.windows - 1) * plan.batches_per_window
    assert plan.sequences_per_window * content_length * kept_share >= plan.window_tokens


@settings(deadline=None)
@given(**PLANS, corpus_sequences=st.integers(1, 10**5), max_epochs=st.sampled_from([0.5, 1, 3]))
def test_the_most_tokens_named_in_a_refusal_are_accepted_and_a_sequence_more_is_not(
    batch_size: int,
    window_tokens: int,
    train_tokens: int,
    content_length: int,
    kept_share: float,
    corpus_sequences: int,
    max_epochs: float,
) -> None:
    train_tokens, window_tokens = max(train_tokens, batch_size), max(window_tokens, batch_size)

    def refusal(train_tokens: int) -> InputError | None:
        try:
            plan = Plan.make(batch_size, window_tokens, train_tokens, content_length, kept_share)
            plan.check_epochs(corpus_sequences, max_epochs)
        except InputError as error:
            return error
        return None

    error = refusal(train_tokens)
    if error is None:
        return
    assert error.value == train_tokens
    most = int(error.valid.split("at most ")[1].split()[0])
    if most >= batch_size:
        assert refusal(most) is None
    assert refusal(most + batch_size + content_length) is not None


# Batches


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rate", "loss_positions", "clean_target"),
    [(0.0, "all", False), (0.3, "all", False), (0.3, "unmasked", True), (0.3, "masked", False)],
)
def test_a_batch_computed_alone_is_the_batch_reached_by_iteration(
    rate: float, loss_positions: str, clean_target: bool, lm: LM
) -> None:
    def fresh() -> ActivationStream:
        share = {"all": 0.95, "unmasked": 0.66, "masked": 0.28}[loss_positions]
        target = "clean" if clean_target else "masked"
        mask = random_mask(lm, rate, span=3.0, loss_positions=loss_positions, target=target)
        return a_stream(lm, mask, kept_share=share, scale=2.5)

    reached = list(batches(fresh(), 0))
    assert len(reached) == 12
    assert all(not torch.equal(a.x_BD, b.x_BD) for a, b in itertools.pairwise(reached))
    for index, batch in enumerate(reached):
        assert same_batch(fresh().batch(index), batch)
    wandering = fresh()
    for index in (11, 0, 5, 4, 11, 1):
        assert same_batch(wandering.batch(index), reached[index])
    for offset, batch in enumerate(batches(fresh(), 7)):
        assert same_batch(batch, reached[7 + offset])


def test_a_batch_outlives_its_window(neox: LM) -> None:
    stream = a_stream(neox)
    first = stream.batch(0)
    kept = first.x_BD.clone()
    stream.batch(11)
    assert torch.equal(first.x_BD, kept)


def test_a_window_that_failed_leaves_no_trace_in_later_batches(tmp_path: Path) -> None:
    """The stream is a pure function, also after an error."""
    lm = load_lm(str(make_neox(tmp_path / "lm")), HOOK)
    stream = a_stream(lm)
    first = stream.batch(0)
    words = embedding_of(lm)
    with torch.no_grad():
        kept = words.clone()
        words.fill_(math.nan)
        with pytest.raises(NonFiniteError):
            stream.batch(11)
        words.copy_(kept)
    assert same_batch(stream.batch(0), first)


@pytest.mark.parametrize("other", [{"seed": 1}, {"mask": 0.3}, {"tokens": 1}])
def test_another_seed_mask_or_text_gives_other_batches(other: dict[str, Any], neox: LM) -> None:
    changed = dict(other)
    if "mask" in changed:
        changed["mask"] = random_mask(neox, changed["mask"])
    if "tokens" in changed:
        changed["tokens"] = some_tokens(neox, seed=changed["tokens"])
    assert not torch.equal(a_stream(neox).batch(0).x_BD, a_stream(neox, **changed).batch(0).x_BD)


@pytest.mark.parametrize(
    ("loss_positions", "rate", "clean_target"),
    [
        ("all", 0.0, False),
        ("all", 0.4, False),
        ("all", 0.4, True),
        ("unmasked", 0.4, False),
        ("unmasked", 0.4, True),
        ("masked", 0.4, False),
        ("masked", 0.4, True),
    ],
)
def test_a_window_holds_what_the_lm_computes_at_the_kept_positions(
    loss_positions: str, rate: float, clean_target: bool, lm: LM, hidden_states: Callable[[Tensor], Tensor]
) -> None:
    """Against: the window's sequences by hand, through Hugging Face's own model, position by position."""
    share = {"all": 0.95, "unmasked": 0.55, "masked": 0.36}[loss_positions]
    tokens, scale = some_tokens(lm), 1.7
    mask = random_mask(lm, rate, loss_positions=loss_positions, target="clean" if clean_target else "masked")
    stream = a_stream(lm, mask if rate else None, kept_share=share, scale=scale)
    plan, special, window = stream.plan, lm.special, 1
    content = CONTEXT - len(special.prefix) - len(special.suffix)
    ordinals = np.arange(window * plan.sequences_per_window, (window + 1) * plan.sequences_per_window)
    rows: list[tuple[Tensor, Tensor]] = []
    for ordinal, index in zip(ordinals, permute(ordinals, len(tokens) // content, 0, 0), strict=True):
        stretch = tokens[index * content : (index + 1) * content].tolist()
        clean_NT = torch.tensor([[*special.prefix, *stretch, *special.suffix]])
        maskable_NT = torch.tensor([[t not in special.ids for t in clean_NT[0].tolist()]])
        read_NT, masked_NT = mask.mask_tokens(clean_NT, maskable_NT, [int(ordinal)], [0.0])
        x_TD, clean_TD = hidden_states(read_NT)[0] * scale, hidden_states(clean_NT)[0] * scale
        for t in range(CONTEXT):
            counts = {"all": True, "unmasked": not masked_NT[0, t], "masked": bool(masked_NT[0, t])}[loss_positions]
            if maskable_NT[0, t] and counts:
                rows.append((x_TD[t], clean_TD[t] if clean_target else x_TD[t]))
    assert len(rows) >= plan.window_tokens
    rows = rows[: plan.window_tokens]
    batches = [stream.batch(window * plan.batches_per_window + i) for i in range(plan.batches_per_window)]
    found = in_some_order(torch.cat([b.x_BD for b in batches]), torch.cat([b.target_BD for b in batches]))
    expected = in_some_order(torch.stack([x for x, _ in rows]), torch.stack([target for _, target in rows]))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    if clean_target and rate and loss_positions != "unmasked":
        assert not torch.allclose(found[:, :D_IN], found[:, D_IN:], atol=0.1)
    if rate == 0:
        assert all(b.target_BD is b.x_BD and b.masked_share == 0 for b in batches)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"span": 4.0}, {"schedule": "cosine"}])
@pytest.mark.parametrize("clean_target", [False, True])
def test_rate_0_is_no_mask_bit_for_bit(changes: dict[str, Any], clean_target: bool, lm: LM) -> None:
    """And so is one that is next to 0."""
    target = "clean" if clean_target else "masked"
    unmasked = list(batches(a_stream(lm), 0))
    off = list(batches(a_stream(lm, random_mask(lm, 0.0, target=target, **changes)), 0))
    almost_off = list(batches(a_stream(lm, random_mask(lm, 1e-12, target=target, **changes)), 0))
    for none, zero, tiny in zip(unmasked, off, almost_off, strict=True):
        assert same_batch(none, zero)
        assert same_batch(none, tiny)


def test_the_masked_share_is_the_realised_rate(neox: LM) -> None:
    stream = a_stream(neox, random_mask(neox, 0.3), train_tokens=64 * BATCH, window_tokens=64 * BATCH)
    assert abs(stream.batch(0).masked_share - 0.3) < 5 * math.sqrt(0.3 * 0.7 / (64 * BATCH))


def test_no_activation_of_a_window_is_used_twice_or_left_out(neox: LM) -> None:
    stream = a_stream(neox)
    x_WD = torch.cat([stream.batch(i).x_BD for i in range(stream.plan.batches_per_window)])
    assert len(torch.unique(x_WD, dim=0)) == len(x_WD) == WINDOW


def test_activations_of_a_sequence_are_spread_over_the_window(neox: LM, neox_folder: Path) -> None:
    stream = a_stream(neox, train_tokens=16 * BATCH, window_tokens=16 * BATCH)
    with read_by(neox) as read:
        first = stream.batch(0).x_BD
    x_NTD = peer_of(neox_folder)(torch.cat(read))
    distance = torch.cdist(first, x_NTD.flatten(0, 1))
    assert distance.min(1).values.max() < 1e-2
    sequences = distance.argmin(1) // CONTEXT
    assert len(sequences.unique()) > 10  # of the 24 in the window; unshuffled, a batch comes from two


# Scale


def test_the_scale_gives_a_mean_squared_norm_of_d_in(lm: LM, hidden_states: Callable[[Tensor], Tensor]) -> None:
    tokens = some_tokens(lm)
    measured = statistics(lm, 10**9, tokens)  # the whole corpus
    tokens_NT, kept_NT = make_sequences(tokens, CONTEXT, lm.special).read(
        np.arange(len(make_sequences(tokens, CONTEXT, lm.special)))
    )
    clean_BD = hidden_states(tokens_NT)[kept_NT].double()
    assert (measured.scale * clean_BD).square().sum(1).mean().item() == pytest.approx(D_IN, rel=1e-4)
    torch.testing.assert_close(measured.mean_D, clean_BD.mean(0).float(), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_a_sample_gives_nearly_the_same_scale(neox: LM) -> None:
    scale = statistics(neox, 1000).scale
    assert scale == pytest.approx(statistics(neox, 10**9).scale, rel=0.05)
    x_BD = torch.cat([batch.x_BD for batch in batches(a_stream(neox, scale=scale), 0)])
    assert x_BD.square().sum(1).mean().item() == pytest.approx(D_IN, rel=0.1)


# Memory, epochs


def most_rows_alive() -> int:
    gc.collect()
    tensors = [o for o in gc.get_objects() if type(o) is Tensor and o.ndim == 2 and o.shape[1] == D_IN]
    return max(len(tensor) for tensor in tensors if not tensor.requires_grad)


@pytest.mark.slow
@pytest.mark.parametrize("clean_target", [False, True])
def test_memory_is_bounded_by_the_window_and_the_lm_batch(clean_target: bool, neox: LM) -> None:
    steps, window = 60, 20 * BATCH
    mask = random_mask(neox, target="clean" if clean_target else "masked")
    stream = a_stream(neox, mask, train_tokens=steps * BATCH, window_tokens=window, lm_batch_size=3)
    with read_by(neox) as read:
        for index, batch in enumerate(batches(stream, 0)):
            if index % 29 == 1:  # in every window; looking at all tensors takes its time
                assert BATCH <= most_rows_alive() <= window
            assert batch.x_BD.shape == (BATCH, D_IN)
    assert max(len(tokens_NT) for tokens_NT in read) <= 3


def test_within_one_epoch_no_sequence_is_read_twice(neox: LM) -> None:
    tokens = distinct_tokens(6000)
    stream = a_stream(neox, tokens=tokens, train_tokens=5504)
    stream.plan.check_epochs(len(tokens) // (CONTEXT - 1), max_epochs=1)
    with read_by(neox) as read:
        list(batches(stream, 0))
    sequences_NT = torch.cat(read)
    assert len(sequences_NT) * (CONTEXT - 1) > 5504
    assert len(torch.unique(sequences_NT, dim=0)) == len(sequences_NT)


@pytest.mark.slow
def test_each_epoch_reads_the_corpus_in_a_new_order(neox: LM) -> None:
    content = CONTEXT - 1
    tokens = distinct_tokens(30 * content)
    stream = a_stream(neox, tokens=tokens, train_tokens=4000, lm_batch_size=1, kept_share=1.0)
    stream.plan.check_epochs(30, max_epochs=10)
    with read_by(neox) as read:
        list(batches(stream, 0))
    place = {tuple(tokens[i * content : (i + 1) * content].tolist()): i for i in range(30)}
    order = [place[tuple(tokens_NT[0, 1:].tolist())] for tokens_NT in read]
    # A window may have read ahead less than it set aside; ordinals tell the epochs apart.
    per_window, read_per_window = stream.plan.sequences_per_window, len(order) // stream.plan.windows
    ordinals = [w * per_window + i for w in range(stream.plan.windows) for i in range(read_per_window)]
    epochs: dict[int, list[int]] = {}
    for ordinal, sequence in zip(ordinals, order, strict=True):
        epochs.setdefault(ordinal // 30, []).append(sequence)
    assert len(epochs) >= 5
    assert all(len(set(epoch)) == len(epoch) for epoch in epochs.values())
    assert len({tuple(epoch[:5]) for epoch in epochs.values()}) == len(epochs)


def test_a_run_longer_than_the_corpus_is_refused_with_its_epochs() -> None:
    plan = Plan.make(BATCH, WINDOW, 10_000, CONTEXT - 1, 1.0)
    with pytest.raises(InputError, match=r"data\.train_tokens=.*2\.\d+ epochs") as info:
        plan.check_epochs(10_000 // (CONTEXT - 1) // 2, max_epochs=1)
    assert re.search(r"expected at most \d+ here: 10000 would be 2\.\d+ epochs of the corpus, and", str(info.value))
    assert "data.max_epochs=1" in str(info.value)


# What is not a number


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_no_number_is_refused_naming_its_tokens(value: float, tmp_path: Path) -> None:
    """Read at the embedding, which is broken for 'Q' alone (attention spreads a NaN over the sequence)."""
    lm = load_lm(str(make_neox(tmp_path / "lm")), "blocks.0.hook_resid_pre")
    q = lm.tokenizer.encode("Q")[0]
    with torch.no_grad():
        embedding_of(lm)[q] = value
    content = CONTEXT - 1
    text = ("abcdefghijklmnopqrstuvw" * 200)[: 200 * content]
    tokens = np.array(lm.tokenizer.encode(text), dtype=np.uint16)
    list(batches(a_stream(lm, tokens=tokens, kept_share=1.0), 0))
    tokens[130 * content + 5] = q
    stream = a_stream(lm, tokens=tokens, kept_share=1.0, train_tokens=140 * BATCH)
    for attempt in (lambda: list(batches(stream, 0)), lambda: statistics(lm, 10**9, tokens)):
        with pytest.raises(NonFiniteError) as info:
            attempt()
        message = str(info.value)
        assert lm.hook_name in message
        assert "abcdeQ" in message
        assert "position 6" in message
        assert "\n" not in message


def test_no_position_to_train_on_is_refused(neox: LM) -> None:
    stream = a_stream(neox, random_mask(neox, 1e-9, loss_positions="masked"))
    with pytest.raises(InputError, match=r"mask=token: expected masks that leave positions"):
        stream.batch(0)


def test_a_model_that_says_nothing_is_refused(tmp_path: Path) -> None:
    lm = load_lm(str(make_neox(tmp_path / "lm")), HOOK)
    with torch.no_grad():
        for parameter in lm.bridge.parameters():
            parameter.zero_()
    with pytest.raises(NonFiniteError, match="zero"):
        statistics(lm, 100)
