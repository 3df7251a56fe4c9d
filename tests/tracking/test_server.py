"""W&B's ids, and whether its server can be reached."""

import os
import re
import socket
from collections.abc import Generator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masked_sae.tracking.server import wandb_id, why_unreachable


@given(st.text(max_size=300), st.text(min_size=1, max_size=300))
def test_an_id_is_made_of_what_wandb_takes(group: str, run_id: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_.-]{1,128}", wandb_id(group, run_id))


@pytest.mark.parametrize(
    ("group", "run_id", "expected"),
    [
        ("train", "topk-rate0.1-a368774d", "train-topk-rate0.1-a368774d"),
        ("a/b c:d", "été", "a_b_c_d-_t_"),
        ("train", "x" * 122, "train-" + "x" * 122),  # 128 characters
        ("train", "x" * 123, "rain-" + "x" * 123),
    ],
)
def test_an_id_is_the_same_ever_after(group: str, run_id: str, expected: str) -> None:
    """What was logged under an id of an earlier version is found again."""
    assert wandb_id(group, run_id) == expected


def test_of_long_names_the_end_is_kept_which_tells_runs_apart() -> None:
    run_ids = [f"{'long' * 40}-{digest}" for digest in ("0a1b2c3d", "0a1b2c3e")]
    ids = [wandb_id("group" * 40, run_id) for run_id in run_ids]
    assert [len(one) for one in ids] == [128, 128]
    assert len(set(ids)) == 2
    assert all(run_id.endswith(one) for run_id, one in zip(run_ids, ids, strict=True))


@pytest.fixture
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this machine's environment says of proxies."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture
def listener() -> Generator[str]:
    """The URL of a port where somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture
def closed() -> str:
    """The URL of a port where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.usefixtures("no_proxy")
def test_a_server_that_answers_is_reachable_and_one_that_does_not_is_named_with_the_reason(
    listener: str, closed: str
) -> None:
    assert why_unreachable(listener) is None
    assert why_unreachable(closed) == "127.0.0.1 cannot be reached (Connection refused)"


@pytest.mark.usefixtures("no_proxy")
@pytest.mark.parametrize(
    ("server", "port"),
    [("https://api.wandb.ai", 443), ("http://wandb.local", 80), ("https://wandb.local:8443/", 8443)],
)
def test_it_is_looked_for_at_the_port_of_its_url_or_else_of_the_scheme(
    monkeypatch: pytest.MonkeyPatch, server: str, port: int
) -> None:
    """Nothing is asked for outside: the connection itself is refused here."""
    asked: list[tuple[str, int]] = []

    def refuse(address: tuple[str, int], timeout: float) -> socket.socket:
        asked.append(address)
        raise TimeoutError("timed out")

    monkeypatch.setattr(socket, "create_connection", refuse)
    host = server.split("//")[1].split(":")[0].rstrip("/")
    assert why_unreachable(server) == f"{host} cannot be reached (timed out)"
    assert asked == [(host, port)]


@pytest.mark.usefixtures("no_proxy")
def test_behind_a_proxy_no_look_is_taken(monkeypatch: pytest.MonkeyPatch, closed: str) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.local:3128")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.local:3128")
    assert why_unreachable(closed) is None


@pytest.mark.usefixtures("no_proxy")
def test_hosts_that_need_no_proxy_do_not_make_one(monkeypatch: pytest.MonkeyPatch, closed: str) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert why_unreachable(closed) is not None
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.local:3128")  # passed by, to this host
    assert why_unreachable(closed) is not None
