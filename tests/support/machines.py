"""Two machines that share a file system over NFS, each a Linux kernel of its own (User Mode Linux) with its own name,
clock and caches, beside a third that serves the files. They need no privilege: their network is pairs of sockets.

Debian has what they are made of: user-mode-linux, nfs-kernel-server, kmod.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from masked_sae.files import write_json
from support.making import ROOT

PROGRAMS = ("linux.uml", "rpc.nfsd", "mount.nfs", "mkfs.ext4", "modprobe", "ip")
SHARED = Path("/run/shared")  # over NFS 4.2, with the server's locks
WITHOUT_LOCKS = Path("/run/without_locks")  # the same files over NFS 3: a lock is known to its own machine alone
_SBIN = "/usr/sbin:/sbin:/usr/bin:/bin"
_BOOT_SECONDS = 120.0
_DUTY_SECONDS = 120.0
_POLL_SECONDS = 0.05
_DISK_BYTES = 1 << 26


@dataclass(frozen=True)
class Duty:
    """What a machine was asked for."""

    came: Path

    def outcome(self) -> Any:
        """What came of it."""
        _wait_for(self.came, _DUTY_SECONDS)
        came = json.loads(self.came.read_text())
        assert "error" not in came, came["error"]
        return came["of_it"]


@dataclass(frozen=True)
class Machine:
    """Attributes:
    folder: that it sees, too, without the delays of a network file system.
    """

    folder: Path

    def ask(self, duty: str, *arguments: str | int) -> Duty:
        """Has it call a function of support/on_machines.py."""
        name = f"{duty}-{time.monotonic_ns()}"
        write_json(self.folder / f"{name}.asked", [duty, arguments])
        return Duty(self.folder / f"{name}.came")


def missing_programs() -> list[str]:
    """Of those that machines are made of."""
    return [name for name in PROGRAMS if shutil.which(name, path=_SBIN) is None]


@contextmanager
def two_machines(folder: Path, clocks: Sequence[int]) -> Generator[tuple[Machine, Machine]]:
    """Boots them; they end with the block.

    Args:
        folder: an empty one, for their files and logs.
        clocks: seconds that they are ahead of the server's.
    """
    disk = folder / "disk"
    with disk.open("wb") as file:
        file.truncate(_DISK_BYTES)
    subprocess.run(["mkfs.ext4", "-q", str(disk)], env={"PATH": _SBIN}, check=True)
    one, other = Machine(folder / "one"), Machine(folder / "other")
    with ExitStack() as stack:
        wires = [[stack.enter_context(end) for end in socket.socketpair(type=socket.SOCK_DGRAM)] for _ in range(2)]
        servers = [ends[0] for ends in wires]
        _boot(stack, Machine(folder / "server"), servers, "10.0.1.1,10.0.2.1", 0, f"ubd0={disk}")
        for number, machine in enumerate((one, other)):
            _boot(stack, machine, [wires[number][1]], f"10.0.{number + 1}.2", clocks[number])
        for machine in (one, other):
            _wait_for(machine.folder / "ready", _BOOT_SECONDS)
        yield one, other


def _boot(
    stack: ExitStack, machine: Machine, wires: Sequence[socket.socket], addresses: str, clock: int, *devices: str
) -> None:
    machine.folder.mkdir()
    interfaces = [f"vec{number}:transport=fd,fd={wire.fileno()},vec=0" for number, wire in enumerate(wires)]
    root = ["root=/dev/root", "rootfstype=hostfs", "rootflags=/", "rw", f"init={Path(__file__).parent}/machine_init.sh"]
    told = [
        f"NAME={machine.folder.name}",
        f"ADDRESSES={addresses}",
        f"CLOCK={clock}",
        f"CONTROL={machine.folder.parent}",
    ]
    told += [f"PYTHON={sys.executable}", f"ROOT={ROOT}"]
    process = subprocess.Popen(
        ["linux.uml", "mem=512M", *root, *devices, *interfaces, *told, "con=null", "con0=fd:0,fd:1"],
        env={"PATH": _SBIN, "HOME": str(machine.folder)},  # it keeps files there
        pass_fds=[wire.fileno() for wire in wires],
        stdin=subprocess.DEVNULL,
        stdout=stack.enter_context((machine.folder / "console").open("wb")),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    stack.callback(_end, process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """With the processes that it runs for its own."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _wait_for(file: Path, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not file.exists():
        if time.monotonic() > deadline:
            log = (file.parent / "log").read_text()
            raise TimeoutError(f"no {file} after {seconds:.0f} s; the machine's log ends in:\n{log[-1000:]}")
        time.sleep(_POLL_SECONDS)
