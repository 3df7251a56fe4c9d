"""Windows on disk are as the LM gave them, or not there: whatever befalls file, disk, writer or neighbour."""

import multiprocessing
import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from hypothesis import HealthCheck, given, settings

from masked_sae.activations import window_cache
from masked_sae.activations.lm import load_lm
from masked_sae.activations.window_cache import StoredWindow, WindowCache, stream_cache
from masked_sae.config import RunConfig
from masked_sae.runs.run import make_run
from support.caching import KEY, OTHER, ROWS, WIDTH, cache_of, hold_turn, same, train_through, window, write_for_ever
from support.composing import small_config
from support.damage import Damage, damages
from support.disks import files_limited_to, mounted
from support.making import HOOK
from support.processes import SERVER

Process = multiprocessing.process.BaseProcess
SIZE = ROWS * WIDTH * 4 + 4096  # of a window as the limit counts it before it is written


def file_of(folder: Path, index: int = 0, key: str = KEY) -> Path:
    return folder / key / f"{index}.safetensors"


def windows_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.glob("*/*.safetensors"))


def notes(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


def ended(*processes: Process) -> bool:
    for process in processes:
        process.join(timeout=100)
    return not any(process.is_alive() for process in processes)


def wait_for(there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 100
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.parametrize("with_target", [False, True])
def test_a_window_comes_back_to_the_bit(with_target: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = window(3, with_target=with_target)
    assert cache_of(tmp_path).read(3) is None
    cache_of(tmp_path).write(3, written)
    assert same(cache_of(tmp_path, writes=False).read(3), written)
    with cache_of(tmp_path).turn(3) as found:
        assert same(found, written)
    assert notes(capsys) == []


def test_bfloat16_is_stored_where_nothing_is_lost(neox_folder: Path, tmp_path: Path) -> None:
    """An LM in bfloat16 has float32 within its layer norms."""
    lm = load_lm(str(neox_folder), HOOK, "bfloat16")
    tokens_NT = torch.arange(24).reshape(2, 12)
    cache = WindowCache(tmp_path, KEY, torch.bfloat16, 1 << 30, writes=True)
    for index, (name, dtype) in enumerate(
        [(HOOK, torch.bfloat16), ("blocks.1.ln1.hook_normalized", torch.float32)],
    ):
        x_WD = lm.at(name).activations(tokens_NT).flatten(0, 1)
        cache.write(index, StoredWindow(x_WD, None, 24, 0))
        found = cache.read(index)
        assert found is not None and found.x_WD.dtype == dtype
        assert torch.equal(found.x_WD.float(), x_WD)


@given(damage=damages)
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_file_is_said_and_never_read(
    damage: Damage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = window(0, with_target=True)
    cache_of(tmp_path).write(0, written)
    path = file_of(tmp_path)
    before = path.read_bytes()
    damage.do(path)
    unharmed = path.exists() and path.read_bytes() == before
    capsys.readouterr()
    found = cache_of(tmp_path).read(0)
    if unharmed:
        assert same(found, written)
        return
    said = notes(capsys)
    assert found is None and not path.exists()
    assert said == [] if damage.kind == "gone" else len(said) == 1 and str(path) in said[0] and "damaged" in said[0]


@pytest.mark.parametrize("was", [b'"shape":[640,16]', b'"dtype":"F32"'])
def test_a_header_of_another_form_is_damage(was: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache_of(tmp_path).write(0, window(0))
    path = file_of(tmp_path)
    content = path.read_bytes()
    assert was in content
    path.write_bytes(content.replace(was, {b'"dtype":"F32"': b'"dtype":"I32"'}.get(was, b'"shape":[16,640]')))
    with cache_of(tmp_path).turn(0) as found:
        assert found is None
    (line,) = notes(capsys)
    assert "does not match its digest" in line


def test_no_window_stands_in_for_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache_of(tmp_path).write(0, window(0))
    for index, key in ((1, KEY), (0, OTHER)):
        other = file_of(tmp_path, index, key)
        other.parent.mkdir(exist_ok=True)
        shutil.copy(file_of(tmp_path), other)
        assert cache_of(tmp_path, key).read(index) is None
        (line,) = notes(capsys)
        assert "another window" in line


def test_a_cache_that_does_not_write_leaves_a_damaged_file_and_locks_nothing(tmp_path: Path) -> None:
    path = file_of(tmp_path)
    path.parent.mkdir()
    path.write_bytes(b"")
    cache = cache_of(tmp_path, writes=False)
    with cache.turn(0) as found, cache.turn(1) as neither:
        assert found is None and neither is None
    cache.write(1, window(1))
    assert list(tmp_path.rglob("*")) == [path.parent, path]


def test_a_full_disk_is_said_once_and_nothing_half_written_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=128k", "tmpfs") as disk:
        cache = cache_of(disk)
        for index in range(3):
            with cache.turn(index) as found:
                assert found is None
                cache.write(index, window(index, rows=800))
        assert windows_in(disk) == [f"{KEY}/0.safetensors", f"{KEY}/1.safetensors"]
        assert not [path for path in disk.rglob(".*") if path.stat().st_size]
        cache.write(3, window(3, rows=800))
        (line,) = notes(capsys)
        assert "2.safetensors cannot be written (No space left on device)" in line
        assert same(cache.read(1), window(1, rows=800))


def test_a_file_that_the_disk_does_not_take_is_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = cache_of(tmp_path)
    with files_limited_to(50_000):
        cache.write(0, window(0))
        for index in (1, 2):
            cache.write(index, window(index, rows=800))
    (line,) = notes(capsys)
    assert "1.safetensors cannot be written (File too large)" in line
    assert [path.name for path in (tmp_path / KEY).iterdir()] == ["0.safetensors"]


def test_a_folder_that_is_none_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    cache = cache_of(tmp_path / "file")
    for index in (0, 1):
        with cache.turn(index) as found:
            assert found is None
            cache.write(index, window(index))
    assert len(notes(capsys)) == 1


def test_a_reader_through_another_mount_that_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here = tmp_path / "here"
    cache_of(here).write(0, window(0))
    with mounted(tmp_path / "there", "-o", "bind,ro", str(here)) as there:
        cache = cache_of(there)
        with cache.turn(0) as found:
            assert same(found, window(0))
        cache_of(here).write(1, window(1))
        assert same(cache.read(1), window(1))
        assert notes(capsys) == []
        for index in (2, 3):
            with cache.turn(index) as found:
                assert found is None
                cache.write(index, window(index))
        (line,) = notes(capsys)
        assert "2.safetensors cannot be written (Read-only file system)" in line
        file_of(here).write_bytes(b"")
        assert cache.read(0) is None


def test_a_read_only_copy_is_read(tmp_path: Path) -> None:
    cache_of(tmp_path / "here").write(0, window(0))
    copy = shutil.copytree(tmp_path / "here", tmp_path / "copy")
    for path in (*copy.rglob("*"), copy):
        path.chmod(0o555 if path.is_dir() else 0o444)
    with cache_of(copy).turn(0) as found:
        assert same(found, window(0))


def test_other_streams_windows_go_by_oldest_use_and_no_more_than_needed(tmp_path: Path) -> None:
    others = cache_of(tmp_path, OTHER)
    for index in range(4):
        others.write(index, window(index))
        os.utime(file_of(tmp_path, index, OTHER), (index, index))
    assert others.read(0) is not None  # its use is the newest now
    (tmp_path / "notes.safetensors").write_bytes(bytes(9999))
    (tmp_path / "somebodys").mkdir()
    (tmp_path / "somebodys" / "7.safetensors").write_bytes(bytes(9999))
    there = sum(path.stat().st_size for path in (tmp_path / OTHER).glob("*.safetensors"))
    cache_of(tmp_path, limit=there + SIZE // 8).write(0, window(9))
    kept = [f"{OTHER}/{index}.safetensors" for index in (0, 2, 3)]
    assert windows_in(tmp_path) == [f"{KEY}/0.safetensors", *kept, "somebodys/7.safetensors"]
    assert (tmp_path / "notes.safetensors").exists()


def test_own_windows_stay_and_what_does_not_fit_is_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache_of(tmp_path, OTHER).write(0, window(0))
    cache = WindowCache(tmp_path, KEY, torch.float32, 2 * SIZE, writes=True, windows=1000)
    for index in range(5):
        cache.write(index, window(index))
    assert windows_in(tmp_path) == [f"{KEY}/0.safetensors", f"{KEY}/1.safetensors"]
    (line,) = notes(capsys)
    assert "the stream needs about 0.042 GiB" in line and "data.cache_gib=" in line and str(tmp_path) in line


def test_nothing_is_removed_for_a_window_that_cannot_fit(tmp_path: Path) -> None:
    cache_of(tmp_path, OTHER).write(0, window(0))
    cache_of(tmp_path, limit=SIZE - 1).write(0, window(0))
    assert windows_in(tmp_path) == [f"{OTHER}/0.safetensors"]


def test_what_other_streams_killed_writers_left_goes_in_its_turn(tmp_path: Path) -> None:
    left = file_of(tmp_path, 0, OTHER).with_name(".0.safetensors.abcd_123")
    left.parent.mkdir()
    left.write_bytes(bytes(2 * SIZE))
    cache_of(tmp_path, limit=2 * SIZE).write(0, window(0))
    assert not left.exists() and windows_in(tmp_path) == [f"{KEY}/0.safetensors"]


@pytest.mark.slow
def test_a_writer_that_is_killed_leaves_whole_windows_and_what_the_next_one_removes(tmp_path: Path) -> None:
    rows = 200_000  # 13 MB
    process = SERVER.Process(target=write_for_ever, args=(tmp_path, rows))
    process.start()

    def half_written() -> list[Path]:
        return [path for path in tmp_path.glob(f"{KEY}/.2.safetensors.*") if path.exists()]

    wait_for(lambda: bool(half_written()))
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    assert ended(process) and half_written()
    assert not file_of(tmp_path, 2).exists()
    cache = cache_of(tmp_path)
    assert all(same(cache.read(index), window(0, rows)) for index in (0, 1))
    with cache.turn(2) as found:  # at once: the lock went with its owner
        assert found is None
        cache.write(2, window(2))
    assert same(cache.read(2), window(2)) and not half_written()


@pytest.mark.slow
def test_the_turn_of_a_process_that_died_passes_to_the_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    process = SERVER.Process(target=hold_turn, args=(tmp_path, 0, tmp_path / "holds"))
    process.start()
    wait_for((tmp_path / "holds").exists)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    assert ended(process)
    began = time.monotonic()
    with cache_of(tmp_path).turn(0) as found:
        assert found is None
    assert time.monotonic() - began < 5 and notes(capsys) == []


@pytest.mark.slow
def test_jobs_at_once_compute_each_window_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    jobs = [SERVER.Process(target=train_through, args=(tmp_path / "cache", KEY, 1 << 30, 12, log)) for _ in range(3)]
    for job in jobs:
        job.start()
    assert ended(*jobs)
    assert Counter(log.read_text().splitlines()) == {f"computed {index}": 1 for index in range(12)}


@pytest.mark.slow
def test_the_limit_holds_while_streams_are_written_at_once(tmp_path: Path) -> None:
    log, cache, limit = tmp_path / "log", tmp_path / "cache", 5 * SIZE
    jobs = [SERVER.Process(target=train_through, args=(cache, str(number) * 32, limit, 6, log)) for number in range(3)]
    for job in jobs:
        job.start()
    largest = 0
    while any(job.is_alive() for job in jobs):
        sizes = []
        for path in cache.glob("*/*.safetensors"):
            try:
                sizes.append(path.stat().st_size)
            except FileNotFoundError:
                sizes.append(0)
        largest = max(largest, sum(sizes))
    assert ended(*jobs)
    assert 0 < largest <= limit
    assert "wrong" not in log.read_text()


def test_without_locks_windows_are_computed_and_stored_all_the_same(tmp_path: Path) -> None:
    for name in (".lock", f"{KEY}/0.lock"):
        (tmp_path / name).mkdir(parents=True)  # no file that could be locked
    cache = cache_of(tmp_path)
    with cache.turn(0) as found:
        assert found is None
        cache.write(0, window(0))
    assert same(cache.read(0), window(0))


def test_nobody_waits_for_ever(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(window_cache, "_COMPUTING_SECONDS", 0.2)
    (tmp_path / KEY).mkdir()
    cache = cache_of(tmp_path)
    with FileLock(tmp_path / KEY / "0.lock"), FileLock(tmp_path / KEY / "1.lock"):
        for index in (0, 1):
            with cache.turn(index) as found:
                assert found is None
                cache.write(index, window(index))
    assert same(cache.read(1), window(1))
    said = notes(capsys)
    assert len(said) == 2 and all("computed here, too" in line for line in said)


@pytest.fixture
def config(neox_folder: Path, corpus_folder: Path, tmp_path: Path) -> RunConfig:
    return small_config(neox_folder, corpus_folder, tmp_path, f"data.cache_dir={tmp_path / 'windows'}")


def cache_for(config: RunConfig, cache: str, lm_output: str = "a", device: str = "cpu") -> WindowCache | None:
    return stream_cache(replace(config.data, cache=cache), config.lm.dtype, lm_output, torch.device(device))


def test_data_cache_says_whether_there_is_one(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_for(config, "false") is None
    assert cache_for(config, "auto") is None
    written = cache_for(config, "true")
    assert written is not None and written.dtype == torch.float32
    assert cache_for(config, "auto") is None, "no window is there yet"
    assert not Path(config.data.cache_dir).exists(), "looking writes nothing"
    written.write(2, window(2))
    found = cache_for(config, "auto")
    assert found is not None and not found.writes and same(found.read(2), window(2))
    assert cache_for(config, "auto", "b") is None and cache_for(config, "auto", device="cuda") is None
    coarser = replace(config, data=replace(config.data, cache_dtype="bfloat16"))
    assert cache_for(coarser, "auto") is None
    settings = replace(config.data, cache="auto")
    assert stream_cache(settings, config.lm.dtype, "a", torch.device("cpu"), pieces_of=2) is None
    torch.set_num_threads(2)
    assert cache_for(config, "auto") is None
    torch.set_num_threads(1)
    assert cache_for(config, "auto") is not None
    monkeypatch.setattr(window_cache, "version", lambda name: "2" if name == "transformer-lens" else "1")
    assert cache_for(config, "auto") is None


def test_what_the_lm_gives_has_one_digest_whatever_the_scaling_and_the_sae(config: RunConfig) -> None:
    def shares(config: RunConfig) -> tuple[str, str]:
        run = make_run(config, {})
        assert run.shares is not None
        return run.shares.lm_output, run.shares.batches

    def changed(part: str, **values: object) -> RunConfig:
        return replace(config, **{part: replace(getattr(config, part), **values)})

    lm_output, batches = shares(config)
    scaled = shares(changed("data", scale_tokens=128))
    assert scaled[0] == lm_output and scaled[1] != batches
    assert shares(changed("optim", lr=0.01)) == shares(changed("sae", k=3)) == (lm_output, batches)
    changes = [changed("lm", dtype="bfloat16"), changed("lm", hook_name="blocks.0.hook_resid_post")]
    changes += [changed("data", **one) for one in ({"seed": 7}, {"cache_dtype": "bfloat16"}, {"window_tokens": 256})]
    masked = replace(config, mask=config.mask | {"token": replace(config.mask["token"], rate=0.5)})
    digests = {lm_output, *(shares(change)[0] for change in (*changes, masked))}
    assert len(digests) == len(changes) + 2
