"""A bill as a table of 80 columns, and as JSON."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from masked_sae.files import write_json
from masked_sae.planning.bill import Bill, JobBill

_WIDTH = 80
_UNKNOWN = "?"
_PREFIXES = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_COLUMNS = ("job", "runs", "tokens", "LM", "SAE dense", "sparse", "memory", "disk", "time")


def print_bill(bill: Bill) -> None:
    console = Console(highlight=False, soft_wrap=True, markup=False, width=_WIDTH)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in _COLUMNS:
        table.add_column(title, justify="left" if title == "job" else "right", no_wrap=True)
    for number, job in enumerate(bill.jobs, 1):
        table.add_row(*_row(str(number), job))
    table.add_row(*_total(bill))
    console.print(table)
    for line in lines_of(bill):
        Console(highlight=False, markup=False, width=_WIDTH).print(line)


def lines_of(bill: Bill) -> list[str]:
    """What stands below the table."""
    lines = [f"job {number}: {job.label}" for number, job in enumerate(bill.jobs, 1)]
    lines.append("Arithmetic in FLOP, a multiplication and an addition being two; memory of a device at one time.")
    largest = max((job for job in bill.jobs if job.memory), key=lambda job: job.memory.peak, default=None)  # pyright: ignore[reportOptionalMemberAccess]
    if largest is not None and largest.memory is not None:
        parts = ", ".join(f"{name} {_size(size)}" for name, size in largest.memory.parts.items())
        turns = "at one time" if largest.memory.ahead else "take turns"
        lines.append(f"memory of the largest job: {parts}; a forward and a step {turns}")
        if largest.memory.lm_peak is not None:
            lines.append(f"of that each other device of the LM has {_size(largest.memory.lm_peak)}")
    if bill.foreseen.place.memory is not None:
        lines.append(f"memory that there is: {_size(bill.foreseen.place.memory)}")
    to_fetch = sum(text.to_fetch for text in bill.texts.values())
    stores = [text.store for text in bill.texts.values()]
    to_write = _UNKNOWN if None in stores else _size(sum(size or 0 for size in stores))
    lm = "" if not bill.lm_bytes else f", the LM's {_size(bill.lm_bytes)}"
    lines.append(f"to fetch: text of {to_fetch:,} tokens{lm}; token stores to write: {to_write}")
    if bill.assumed:
        lines.append(f"time: {bill.assumed}; without evaluation, checkpoints and tokenizing")
        at_once = bill.foreseen.place.at_once
        if bill.elapsed is not None and at_once != 1:
            lines.append(f"time to the end: {_time(bill.elapsed)}, {at_once} jobs at once")
    if bill.foreseen.done:
        lines.append(f"{bill.foreseen.done} runs are done, and not counted")
    lines += [f"too large: {line}" for line in bill.too_large]
    lines += [f"unknown: {line}" for line in bill.unknown]
    return lines


def write_bill(path: Path, bill: Bill) -> None:
    place = bill.foreseen.place
    jobs = [_as_json(job) for job in bill.jobs]
    files = [job.files for job in bill.jobs]
    disk = None if any(one is None for one in files) else sum(one.total for one in files if one is not None)
    total: dict[str, Any] = {
        "jobs": len(jobs) * bill.foreseen.times,
        **{key: _sum([job[key] for job in jobs], bill.foreseen.times) for key in _SUMMED},
        "disk_bytes": None if disk is None else disk * bill.foreseen.times,
        "seconds_to_the_end": bill.elapsed,
    }
    texts = [
        {"tokens": one.tokens, "store_bytes": one.store, "tokens_to_fetch": one.to_fetch} for one in bill.texts.values()
    ]
    write_json(
        path,
        {
            "jobs": jobs,
            "total": total,
            "texts": texts,
            "lm_bytes_to_fetch": bill.lm_bytes,
            "device": {"cuda": place.on_cuda, "memory_bytes": place.memory, "jobs_at_once": place.at_once},
            "done": bill.foreseen.done,
            "assumed": bill.assumed or None,
            "unknown": bill.unknown,
            "too_large": bill.too_large,
        },
    )


_SUMMED = ("members", "tokens", "lm_flop", "sae_dense_flop", "sae_sparse_flop", "seconds")


def _as_json(job: JobBill) -> dict[str, Any]:
    files, memory = job.files, job.memory
    return {
        "label": job.label,
        "members": job.members,
        "tokens": job.tokens,
        "lm_forwards": job.reading.forwards,
        "lm_flop": job.reading.flops,
        "sae_dense_flop": job.dense,
        "sae_sparse_flop": job.sparse,
        "memory_bytes": None
        if memory is None
        else {**memory.parts, "peak": memory.peak, "lm_device_peak": memory.lm_peak},
        "disk_bytes": None
        if files is None
        else {"checkpoints": files.checkpoints, "export": files.export, "windows": files.windows},
        "lm_seconds": job.seconds.lm,
        "sae_seconds": job.seconds.saes,
        "seconds": job.seconds.total,
    }


def _sum(values: list[Any], times: int) -> Any:
    return None if any(value is None for value in values) else sum(values) * times


def _row(name: str, job: JobBill) -> list[str]:
    return [
        name,
        str(job.members),
        _short(job.tokens),
        _short(job.reading.flops),
        _short(job.dense),
        _short(job.sparse),
        _UNKNOWN if job.memory is None else _size(job.memory.peak),
        _UNKNOWN if job.files is None else _size(job.files.total),
        _time(job.seconds.total),
    ]


def _total(bill: Bill) -> list[str]:
    times = bill.foreseen.times
    peaks = [job.memory.peak for job in bill.jobs if job.memory is not None]
    disk = _sum([None if job.files is None else job.files.total for job in bill.jobs], times)
    stores = sum(text.store or 0 for text in bill.texts.values())
    return [
        "all" if times == 1 else f"x {times}",
        str(times * sum(job.members for job in bill.jobs)),
        _short(_sum([job.tokens for job in bill.jobs], times)),
        _short(_sum([job.reading.flops for job in bill.jobs], times)),
        _short(_sum([job.dense for job in bill.jobs], times)),
        _short(_sum([job.sparse for job in bill.jobs], times)),
        _size(max(peaks)) if peaks else _UNKNOWN,
        _UNKNOWN if disk is None else _size(disk + stores),
        _time(_sum([job.seconds.total for job in bill.jobs], times)),
    ]


def _short(value: float | None) -> str:
    if value is None:
        return _UNKNOWN
    for size, prefix in _PREFIXES:
        if value >= size:
            return f"{value / size:.3g}{prefix}" if value < 1000 * size else f"{value / size:,.0f}{prefix}"
    return f"{value:.3g}"


def _size(size: int) -> str:
    count, unit = (size / 2**30, "GiB") if size >= 2**30 else (size / 2**20, "MiB")
    return f"{count:,.0f} {unit}" if count >= 100 else f"{count:.3g} {unit}"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return _UNKNOWN
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"
