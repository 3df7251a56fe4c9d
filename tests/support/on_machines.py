"""What the two machines of support/machines.py do; each duty gives what its test looks at.

They read what they are asked for, and write what came of it, as files in `/run/control/<their name>`.
"""

import hashlib
import json
import multiprocessing
import os
import socket
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from masked_sae.digests import sha256
from masked_sae.files import look_again, write_json
from masked_sae.runs import lock
from masked_sae.runs.asked_end import ask_to_end, asked_end
from masked_sae.runs.folder import RunFolder
from masked_sae.runs.state import RunState, read_state, write_state
from masked_sae.runs.sweep_record import Member, read_members, record_members
from masked_sae.text.documents import Document
from masked_sae.text.store import open_or_build

CONTROL = Path("/run/control")  # both see at once what lies here
ME = socket.gethostname()


def main() -> None:
    # So that no test has to wait for a minute of silence.
    for name, seconds in {"HEARTBEAT_SECONDS": 0.1, "DEAD_AFTER_SECONDS": 1.0, "_WATCHED_SECONDS": 0.5}.items():
        setattr(lock, name, seconds)
    folder = CONTROL / ME
    (folder / "ready").touch()
    while True:
        for asked in folder.glob("*.asked"):
            duty, arguments = json.loads(asked.read_text())
            asked.unlink()
            try:
                came: dict[str, Any] = {"of_it": globals()[duty](*arguments)}
            except Exception:  # noqa: BLE001
                came = {"error": traceback.format_exc()}
            write_json(asked.with_suffix(".came"), came)
        time.sleep(0.05)


def take_at_once(shared: str, rounds: int) -> dict[str, int]:
    """Takes runs together with the other machine: new ones, and such whose owner has died elsewhere. Counts."""
    counted = {"had": 0, "refused": 0, "together": 0}
    for number in range(rounds):
        run = RunFolder(Path(shared) / f"{Path(shared).name}-taken{number}")
        if number % 2 and ME == "one":
            run.path.mkdir()
            lock.owner_file_of(run.lock).write_text('{"host": "elsewhere", "pid": 7, "job_id": null}')
            os.utime(lock.owner_file_of(run.lock), (0, 0))
        inside = run.run_id
        _meet(f"{inside}-begins")
        try:
            with lock.hold(run.lock):
                counted["had"] += 1
                _arrive(inside)
                time.sleep(0.15)
                counted["together"] += _arrived(inside) - 1
        except lock.HeldError:
            counted["refused"] += 1
        _meet(f"{inside}-ends")
    return counted


def hold_and_die(shared: str) -> None:
    """Has a process hold a run for three of its minutes, and kills it."""
    run = _held_in(shared)
    write_state(run.state, RunState(run.run_id, "running"))
    process = multiprocessing.get_context("fork").Process(target=_hold, args=(run.lock,))
    process.start()
    while not lock.owner_file_of(run.lock).exists():
        time.sleep(0.05)
    _arrive(f"{run.run_id}-lives")
    time.sleep(3)
    _arrive(f"{run.run_id}-dies")
    process.kill()
    process.join()


def wait_for_the_dead(shared: str) -> dict[str, Any]:
    """Tries to take that run until it is had: the tries, the owner, the longest silence while it lived, and when."""
    run = _held_in(shared)
    while not _arrived(f"{run.run_id}-lives"):
        time.sleep(0.05)
    refusals: list[str] = []
    silences: list[float] = []
    died: float | None = None
    while True:
        silence = lock.silence(run).total_seconds()
        if died is None and _arrived(f"{run.run_id}-dies"):
            died = time.monotonic()
        if died is None:
            silences.append(silence)
        try:
            with lock.hold(run.lock):
                after = None if died is None else time.monotonic() - died
                return {"refusals": refusals, "longest": max(silences), "after": after, "silence": silence}
        except lock.HeldError as held:
            refusals.append(str(held))
        time.sleep(0.2)


def write_news(shared: str) -> None:
    """Writes what the other machine has looked for, or at, just before."""
    run = RunFolder(Path(shared) / "news")
    write_state(run.state, RunState(run.run_id, "created"))
    (run.path / "text").write_text("one text")
    _meet("news-expected")
    _meet("news-looked-at")
    ask_to_end(run, "pruned", "worse than others")
    run.results.write_text("{}")
    (run.path / "text").write_text("any text")
    write_state(run.state, RunState(run.run_id, "done"))
    _meet("news-written")


def read_news(shared: str) -> dict[str, Any]:
    """What is seen of it at once."""
    run, memory = RunFolder(Path(shared) / "news"), Path(shared) / "digests"
    _meet("news-expected")
    for _ in range(3):  # what is asked for several times is remembered for longer
        assert asked_end(run) is None and not run.results.exists()
        state = read_state(run.state)
        assert state is not None and state.status == "created"
        assert sha256(run.path / "text", memory) == hashlib.sha256(b"one text").hexdigest()
        time.sleep(1)
    _meet("news-looked-at")
    _meet("news-written")
    text = sha256(run.path / "text", memory) == hashlib.sha256(b"any text").hexdigest()
    state, asked = read_state(run.state), asked_end(run)
    return {
        "state": state and state.status,
        "results": run.results.exists(),
        "asked": asked and asked.status,
        "text": text,
    }


def make_at_once(shared: str, rounds: int) -> dict[str, Any]:
    """Records members of sweeps and builds token stores together with the other machine."""
    place, tokenizer = Path(shared), PreTrainedTokenizerFast.from_pretrained(CONTROL / "tokenizer")
    seen: list[list[str]] = []
    tokens: list[str] = []
    built = 0

    def documents() -> Iterator[Document]:
        nonlocal built
        built += 1
        for number in range(200):
            time.sleep(0.001)
            yield Document(str(number), f"some words {number} " * 20)

    for number in range(rounds):
        sweep = place / f"sweep{number}"
        _meet(f"sweep{number}")
        record_members(sweep, [Member(RunFolder(sweep / ME), {"seed": ME})])
        _meet(f"store{number}")
        store = open_or_build(place / "stores", f"key{number}", documents(), tokenizer, 0, 0.2, progress=False)
        tokens.append(hashlib.sha256(store.split("train").tobytes()).hexdigest())
        _meet(f"made{number}")
        look_again(sweep)
        seen.append(sorted(member.folder.run_id for member in read_members(sweep)))
    return {"members": seen, "built": built, "tokens": tokens}


def _held_in(shared: str) -> RunFolder:
    return RunFolder(Path(shared) / f"{Path(shared).name}-held")  # both are the same folder


def _hold(path: Path) -> None:
    with lock.hold(path):
        time.sleep(600)


def _meet(point: str) -> None:
    """Waits until the other machine is there, too."""
    _arrive(point)
    while _arrived(point) < 2:
        time.sleep(0.002)


def _arrive(point: str) -> None:
    (CONTROL / f"{point}@{ME}").touch()


def _arrived(point: str) -> int:
    return len(list(CONTROL.glob(f"{point}@*")))


if __name__ == "__main__":
    main()
