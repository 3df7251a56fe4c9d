"""Windows made ahead: the same, in a thread that computes alike, waits for nobody, and keeps nobody waiting.

Axes: B activations, D `d_in`.
"""

import gc
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from masked_sae.activations.ahead import Abandoned, Ahead, Unwanted
from masked_sae.activations.lm import LM, load_lm
from masked_sae.activations.plan import Plan
from masked_sae.activations.sequences import ShuffledSequences, make_sequences
from masked_sae.activations.stream import ActivationStream, Batch
from masked_sae.activations.window_cache import WindowCache
from masked_sae.activations.windows import Point, Windows
from masked_sae.errors import NonFiniteError
from masked_sae.masks.run_masks import Masks
from support.caching import KEY, PLENTY
from support.making import HOOK, distinct_tokens, make_neox, token_mask

CPU = torch.device("cpu")
CONTEXT, BATCH, WINDOW, STEPS = 24, 32, 128, 22
OTHER_HOOK = "blocks.0.hook_resid_post"


def stream_of(lm: LM, ahead: bool, target: str = "masked", folder: Path | None = None) -> ActivationStream:
    """Of six windows, the last of them shorter, at two hook points."""
    sequences = ShuffledSequences(make_sequences(distinct_tokens(6000), CONTEXT, lm.special), 0)
    plan = Plan.make(BATCH, WINDOW, STEPS * BATCH, sequences.content_length, 0.95)
    caches = {} if folder is None else {HOOK: WindowCache(folder, KEY, torch.float32, PLENTY, writes=True)}
    windows = Windows(
        lm,
        sequences,
        plan,
        Masks({"token": token_mask(0.3, target=target)}),
        [Point(HOOK, 2.0), Point(OTHER_HOOK, 0.5)],
        lm_batch_size=4,
        seed=0,
        caches=caches,
    )
    return ActivationStream(windows, ahead=ahead)


def read(stream: ActivationStream, steps: range) -> list[Batch]:
    found = [one for step in steps for one in stream.at_points(step).values()]
    return [one for one in found if isinstance(one, Batch)]


def assert_same(ours: list[Batch], theirs: list[Batch]) -> None:
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a.x_BD, b.x_BD) and torch.equal(a.target_BD, b.target_BD)
        assert a.masked_share == b.masked_share


@pytest.mark.parametrize("target", ["masked", "clean"])
@pytest.mark.parametrize("start", [0, 9])
def test_batches_are_those_made_in_turn(neox: LM, target: str, start: int) -> None:
    ahead = stream_of(neox, True, target)
    assert_same(read(ahead, range(start, STEPS)), read(stream_of(neox, False, target), range(start, STEPS)))
    ahead.close()


def test_batches_in_any_order_are_those_made_in_turn(neox: LM) -> None:
    ahead, in_turn = stream_of(neox, True), stream_of(neox, False)
    for step in (3, 15, 16, 2, 21, 20, 0):
        assert_same(read(ahead, range(step, step + 1)), read(in_turn, range(step, step + 1)))
    ahead.close()
    assert_same(read(ahead, range(5, 6)), read(in_turn, range(5, 6)))  # in its turn again


def test_windows_on_disk_are_written_and_read_ahead(neox: LM, tmp_path: Path) -> None:
    in_turn = read(stream_of(neox, False), range(STEPS))
    for _ in range(2):  # computes them, and reads them
        ahead = stream_of(neox, True, folder=tmp_path)
        assert_same(read(ahead, range(STEPS)), in_turn)
        ahead.close()
    assert len(list(tmp_path.rglob("*.safetensors"))) == 6


def test_what_is_no_number_is_told_with_the_first_batch_of_its_window(tmp_path: Path) -> None:
    folder = make_neox(tmp_path / "lm")
    lm = load_lm(str(folder), HOOK)
    clean, spoiled = stream_of(lm, False), stream_of(lm, True)
    expected = read(clean, range(4))
    found = read(spoiled, range(1))  # the next window is in the making from here on
    forward = lm.activations_at
    made = spoiled._ahead._making  # pyright: ignore[reportPrivateUsage, reportOptionalMemberAccess]
    assert made is not None
    made._thread.join()  # pyright: ignore[reportPrivateUsage]
    lm.activations_at = lambda hook_names, tokens_NT: [x_NTD * torch.nan for x_NTD in forward(hook_names, tokens_NT)]
    found += read(spoiled, range(1, 4))
    assert_same(found, expected)
    assert len(read(spoiled, range(4, 8))) == 8  # made before
    assert all(isinstance(one, NonFiniteError) for one in spoiled.at_points(8).values())
    spoiled.close()


def test_validation_beside_it_gets_what_it_gets_alone(neox: LM) -> None:
    """Hooks of one forward must not act in another's."""
    tokens_NT = torch.from_numpy(distinct_tokens(2 * CONTEXT).astype("int64")).view(2, CONTEXT)
    logits_NTV, halved_NTV = neox.logits(tokens_NT), neox.logits(tokens_NT, lambda x_NTD: x_NTD / 2)
    in_turn, ahead = read(stream_of(neox, False), range(STEPS)), stream_of(neox, True)
    found: list[Batch] = []
    for step in range(STEPS):
        found += read(ahead, range(step, step + 1))
        assert torch.equal(neox.logits(tokens_NT), logits_NTV)
        assert torch.equal(neox.logits(tokens_NT, lambda x_NTD: x_NTD / 2), halved_NTV)
    assert_same(found, in_turn)
    ahead.close()


def test_a_stream_that_is_closed_goes_with_its_last_use(neox: LM) -> None:
    stream = stream_of(neox, True)
    read(stream, range(1))
    stream.close()
    gone = weakref.ref(stream)
    gc.disable()
    try:
        del stream
        assert gone() is None
    finally:
        gc.enable()


def test_it_computes_with_the_threads_of_who_asks() -> None:
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            ahead = Ahead(lambda index, memory, unwanted: torch.get_num_threads(), 3, CPU)
            assert [ahead.window(index, None) for index in range(3)] == [threads] * 3
    finally:
        torch.set_num_threads(before)


def gated(until: threading.Event, made: list[int]) -> Callable[[int, str | None, Unwanted], str]:
    """Makes window 0 at once, and works on others until they are unwanted, or let go."""

    def make(index: int, memory: str | None, unwanted: Unwanted) -> str:
        while index and not until.is_set():
            if unwanted():
                raise Abandoned
            time.sleep(0.001)
        made.append(index)
        return f"{index}{'' if memory is None else f' in the memory of {memory}'}"

    return make


def test_the_next_one_is_begun_at_once_and_two_are_in_memory() -> None:
    go, made = threading.Event(), list[int]()
    go.set()
    ahead, window, given = Ahead(gated(go, made), 4, CPU), None, list[str]()
    for index in range(4):
        window = ahead.window(index, window)
        given.append(window)
        deadline = time.monotonic() + 20
        while len(made) < min(index + 2, 4) and time.monotonic() < deadline:
            time.sleep(0.001)
        assert made == list(range(min(index + 2, 4)))  # and none beyond the last
    assert given[:3] == ["0", "1", "2 in the memory of 0"]
    assert given[3] == "3 in the memory of 1"


def test_what_nobody_wants_is_abandoned_at_once() -> None:
    made = list[int]()
    ahead = Ahead(gated(threading.Event(), made), 9, CPU)
    assert ahead.window(0, None) == "0"
    start = time.monotonic()
    ahead.close()
    assert time.monotonic() - start < 5 and made == [0]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("window")]


def test_an_error_is_raised_where_its_window_is_asked_for_and_the_next_attempt_begins_anew() -> None:
    tries = list[int]()

    def make(index: int, memory: str | None, unwanted: Unwanted) -> str:
        tries.append(index)
        if tries.count(1) == 1 and index == 1:
            raise MemoryError("no room")
        return str(index)

    ahead = Ahead(make, 3, CPU)
    assert ahead.window(0, None) == "0"
    with pytest.raises(MemoryError, match="no room"):
        ahead.window(1, None)
    assert ahead.window(1, None) == "1" and tries[:3] == [0, 1, 1]
    ahead.close()


def test_it_waits_for_no_other_process_once_it_is_unwanted(
    neox: LM, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = stream_of(neox, True, folder=tmp_path)
    (tmp_path / KEY).mkdir(parents=True)
    with FileLock(tmp_path / KEY / "1.lock"):  # as of a job that computes it
        read(stream, range(1))
        start = time.monotonic()
        stream.close()
        assert time.monotonic() - start < 20
    assert "in the making elsewhere" not in capsys.readouterr().err
