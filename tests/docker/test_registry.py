"""docker/registry.py: what this machine is set to, as a build is told it."""

import itertools
import os
import subprocess
import sys
import threading
from configparser import ConfigParser
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from support.images import DOCKER

SECRET = "https://me:secret@registry.example/simple"


def asked(folder: Path, pip_conf: str, *index: str, **environment: str) -> list[str]:
    """The arguments of `buildah build`, with pip set so and not as it is here."""
    (folder / "set.conf").write_text(pip_conf)
    plain = {key: value for key, value in os.environ.items() if not key.startswith("PIP_")}
    home = {"HOME": str(folder), "XDG_CONFIG_DIRS": str(folder), "PIP_CONFIG_FILE": str(folder / "set.conf")}
    command = [sys.executable, str(DOCKER / "registry.py"), str(folder), *index]
    return subprocess.run(
        command, env=plain | home | environment, capture_output=True, text=True, check=True
    ).stdout.splitlines()


def passed_on(folder: Path) -> dict[str, str]:
    parser = ConfigParser(interpolation=None)
    parser.read(folder / "pip.conf")
    return dict(parser["global"])


def test_pips_settings_go_into_a_secret_and_no_argument(tmp_path: Path) -> None:
    set_so = f"[global]\nindex-url = {SECRET}\ntimeout = 5\n[install]\ntimeout = 7\n[download]\ntimeout = 9\n"
    arguments = asked(tmp_path, set_so, PIP_TRUSTED_HOST="registry.example")
    expected = {"index-url": SECRET, "timeout": "7", "trusted-host": "registry.example"}
    assert expected.items() <= passed_on(tmp_path).items()
    assert f"id=pip,src={tmp_path / 'pip.conf'}" in arguments
    assert not any("registry.example" in argument for argument in arguments)


def test_the_environment_goes_before_files_and_other_settings_stay(tmp_path: Path) -> None:
    asked(
        tmp_path, "[global]\nindex-url = https://a.example\nconstraint = mine.txt\n", PIP_INDEX_URL="https://b.example"
    )
    assert passed_on(tmp_path)["index-url"] == "https://b.example" and "constraint" not in passed_on(tmp_path)


def test_indexes_that_are_folders_are_mounted_with_what_their_pages_link_to(tmp_path: Path) -> None:
    (tmp_path / "mirror" / "simple").mkdir(parents=True)
    (tmp_path / "wheels").mkdir()
    index, links = f"file://{tmp_path}/mirror/simple", f"{tmp_path}/wheels https://far.example/wheels"
    arguments = asked(tmp_path, f"[global]\nextra-index-url = {index}\nfind-links = {links}\n")
    volumes = [after for before, after in itertools.pairwise(arguments) if before == "--volume"]
    assert volumes == [f"{tmp_path}/mirror:/run/registry/0:ro", f"{tmp_path}/wheels:/run/registry/1:ro"]
    found = passed_on(tmp_path)
    assert found["extra-index-url"] == "file:///run/registry/0/simple"
    assert found["find-links"] == "file:///run/registry/1 https://far.example/wheels"


def test_certificates_come_along(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("")
    arguments = asked(tmp_path, "", PIP_CERT=str(tmp_path / "ca.pem"))
    assert f"id=ca,src={tmp_path / 'ca.pem'}" in arguments and passed_on(tmp_path)["cert"] == "/run/secrets/ca"


def test_without_settings_there_is_no_secret_for_pip(tmp_path: Path) -> None:
    assert not any(
        "id=pip" in argument or "id=ca" in argument for argument in asked(tmp_path, "", PIP_CONFIG_FILE=os.devnull)
    )


def test_an_index_of_torch_is_asked_where_it_answers(tmp_path: Path) -> None:
    (tmp_path / "cpu" / "torch").mkdir(parents=True)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=tmp_path)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        index = f"http://127.0.0.1:{server.server_port}"
        assert "TORCH_INDEX=" not in asked(tmp_path, "", f"{index}/cpu")
        assert "TORCH_INDEX=" in asked(tmp_path, "", f"{index}/rocm")
        server.shutdown()
