"""`python -m src.publish`: what goes to the hub, what stays, and what loads it again."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub.constants as hub_constants
import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from safetensors.torch import load_file

from masked_sae.config import typed_config
from masked_sae.errors import DamagedFileError, InputError
from masked_sae.interop.saelens import load_sae
from masked_sae.publishing.publish import Request, publish
from masked_sae.publishing.trained_run import hub_name
from masked_sae.report.runs_table import read_runs
from masked_sae.runs.config_file import read_config
from masked_sae.runs.folder import RunFolder
from masked_sae.runs.run import make_run
from masked_sae.runs.state import read_state, write_state
from masked_sae.runs.sweep_record import Member, record_members
from masked_sae.training.train_run import train_run
from support.composing import ROOT, small_config
from support.publishing_hub import TOKEN, PublishingHub

pytestmark = pytest.mark.slow

MAKER, TEAM = "ada_lovelace", "engine-team"


@dataclass(frozen=True)
class Home:
    """A user's home folder with an LM, a text and a sweep of two runs in it."""

    path: Path
    lm: Path
    corpus: Path
    sweep: Path
    runs: tuple[RunFolder, RunFolder]

    @property
    def run(self) -> RunFolder:
        """The masked one."""
        return self.runs[1]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, neox_folder: Path, corpus_folder: Path) -> Home:
    path = tmp_path_factory.mktemp("home") / MAKER
    lm, corpus = path / "models" / "an_lm", path / "texts"
    shutil.copytree(neox_folder, lm)
    shutil.copytree(corpus_folder, corpus)
    members: list[Member] = []
    for rate in (0.0, 0.3):
        swept = {"mask.token.rate": str(rate)}
        of_maker = (f"logger.wandb.entity={TEAM}", "eval.families=[core]", "name=rates")
        run = make_run(small_config(lm, corpus, path, f"mask.token.rate={rate}", *of_maker), swept)
        assert train_run(run).status == "done"
        members.append(Member(run.folder, swept))
    sweep = members[0].folder.path.parent
    record_members(sweep, members, ["+sweep=mask_rate", f"data.path={corpus}", f"logger.wandb.entity={TEAM}"])
    return Home(path, lm, corpus, sweep, (members[0].folder, members[1].folder))


@pytest.fixture(scope="module")
def published(home: Home, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The sweep as a dry run writes it, and what the command says; one of its members has failed."""
    state = read_state(home.run.state)
    assert state is not None
    (home.sweep / "failed-0").mkdir()
    write_state(home.sweep / "failed-0" / "state.json", state, status="failed", error=f"no {home.path}")
    out = tmp_path_factory.mktemp("published") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home.path))
        return out, publish(request(home.sweep, is_sweep=True, dry_run=True, output_dir=out))


@pytest.fixture(autouse=True)
def _at_home(home: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(home.path))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Generator[PublishingHub]:
    """The hub that huggingface_hub asks, with a user logged in."""
    server = PublishingHub()
    monkeypatch.setattr(hub_constants, "ENDPOINT", server.url)
    monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub_constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield server
    server.close()


def request(folder: Path, **changes: Any) -> Request:
    settings: dict[str, Any] = {"folder": folder, "is_sweep": False, "repo": "ada/saes"}
    return Request(**settings | changes)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def card_of(files: dict[str, bytes]) -> ModelCard:
    return ModelCard(files["README.md"].decode())


def test_what_the_command_publishes_is_loaded_by_saelens_and_here_as_it_was_trained(
    home: Home, hub: PublishingHub, tmp_path: Path
) -> None:
    script = f"""
import runpy, sys
sys.argv = ["src.publish", "run={home.run.path}", "repo=saes"]
runpy.run_module("src.publish", run_name="__main__")
import torch
from huggingface_hub import snapshot_download
from safetensors.torch import save_file
from sae_lens import SAE
sae = SAE.from_pretrained("ada/saes", "{home.run.run_id}")
torch.manual_seed(0)
x_BD = torch.randn(64, sae.cfg.d_in)
save_file({{"latents": sae.encode(x_BD).contiguous(), "x": x_BD, **sae.state_dict()}}, "there.safetensors")
print(snapshot_download("ada/saes"))
"""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    of_hub = {"HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
    environment = {**kept, **of_hub, "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"}
    command = [sys.executable, "-W", "ignore", "-c", script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    *_, said, downloaded = done.stdout.splitlines()
    assert said == f"{hub.url}/ada/saes (private, until you change it in its settings there)"
    assert hub.repositories["ada/saes"].private
    assert hub.repositories["ada/saes"].commits == [f"Run {home.run.run_id}, by masked-sae"]
    there, trained = load_file("there.safetensors"), load_file(home.run.sae / "sae_weights.safetensors")
    assert all(there[name].equal(tensor) for name, tensor in trained.items())
    sae, metadata = load_sae(Path(downloaded) / home.run.run_id)
    assert sae.W_enc_DF.equal(trained["W_enc"])
    assert (sae.encode(there["x"]) - there["latents"]).abs().max() < 1e-4
    assert metadata["model_name"] == "an_lm"


def test_what_is_published_names_nobody_and_no_place(home: Home, published: tuple[Path, list[str]]) -> None:
    files = files_of(published[0])
    assert {f"{one.run_id}/cfg.json" for one in home.runs} | {"report.html", "results.parquet"} <= files.keys()
    hosts = {state.host for one in home.runs if (state := read_state(one.state)) is not None}
    for name, content in files.items():
        for private in (str(home.path), MAKER, TEAM, str(published[0].parent), "/tmp/tmp"):
            assert private.encode() not in content, name
        assert not any(f'"{host}"'.encode() in content for host in hosts), name
    for unwanted in ("state.json", "checkpoints", "wandb", ".lock", "histograms.jsonl"):
        assert not any(unwanted in name for name in files), unwanted


def test_a_published_run_can_be_trained_again_as_the_same_run(home: Home, tmp_path: Path) -> None:
    """Its configuration, with the reader's own folders for the LM and the text."""
    publish(request(home.run.path, dry_run=True, output_dir=tmp_path / "out"))
    published = read_config(tmp_path / "out" / home.run.run_id / "config.yaml")
    original = read_config(home.run.config)
    assert published.logger.wandb.entity is None
    for key in ("sae", "mask", "optim", "trainer", "seed", "name"):
        assert published[key] == original[key]
    published.lm.name, published.data.path = str(home.lm), [str(home.corpus)]
    published.data.store_dir = str(tmp_path / "store")
    assert make_run(typed_config(published), {"mask.token.rate": "0.3"}).folder.run_id == home.run.run_id


def test_a_published_sweep_is_read_as_the_original(home: Home, published: tuple[Path, list[str]]) -> None:
    original, there = read_runs([home.sweep]), read_runs([published[0]])
    assert list(there.table["run_id"]) == list(original.measured["run_id"])
    columns = list(original.metrics)
    assert there.table[columns].equals(original.measured[columns])
    assert there.commands == (("+sweep=mask_rate", "data.path=texts"),)


def test_the_card_says_what_was_measured_at_which_l0_and_how_to_load_it(home: Home, tmp_path: Path) -> None:
    publish(request(home.run.path, dry_run=True, license="mit", output_dir=tmp_path / "out"))
    card = card_of(files_of(tmp_path / "out"))
    metrics = json.loads(home.run.results.read_text())["metrics"]
    row = next(line for line in card.text.splitlines() if line.startswith("| `core/explained_variance`"))
    assert [cell.strip() for cell in row.split("|")][3:7:3] == [
        f"{metrics['core/explained_variance']:.4g}", f"{metrics['core/l0']:.3g}"
    ]  # fmt: skip
    assert f'SAE.from_pretrained("ada/saes", "{home.run.run_id}")' in card.text
    assert f'masked_sae.load_sae("ada/saes/{home.run.run_id}")' in card.text
    assert "mask rate 0.3 (share of tokens)" in card.text
    assert (card.data.library_name, card.data.license, card.data.base_model) == ("saelens", "mit", None)
    assert {one.metric_type: one.metric_value for one in card.data.eval_results or []}["l0"] == pytest.approx(
        metrics["core/l0"], rel=1e-4
    )


def test_a_sweeps_card_has_a_row_for_each_sae_and_says_what_is_not_there(
    home: Home, published: tuple[Path, list[str]]
) -> None:
    folder, said = published
    files = files_of(folder)
    text = card_of(files).text
    assert all(f"| [`{one.run_id}`]({one.run_id}/README.md) |" in text for one in home.runs)
    assert "- `failed-0` is failed" in text
    assert not any(name.startswith("failed-0") for name in files)
    assert said[-2] == "note: left out: failed-0: not done"
    assert max(map(len, said[:-1])) <= 80


def test_pages_of_latents_go_along_unless_they_name_a_place(home: Home, tmp_path: Path) -> None:
    folder = home.run.path
    good, telling, data = folder / "latents.html", folder / "absorption.html", folder / "latents_data"
    good.write_text("<p>latents</p>")
    telling.write_text(f"<p>{home.run.path}</p>")
    data.mkdir()
    (data / "0.js").write_text("page(0)")
    (data / "secret.js").symlink_to(home.run.state)
    try:
        said = publish(request(home.run.path, dry_run=True, output_dir=tmp_path / "out"))
    finally:
        for path in (good, telling, data / "0.js", data / "secret.js"):
            path.unlink()
        data.rmdir()
    names = {name.removeprefix(f"{home.run.run_id}/") for name in files_of(tmp_path / "out")}
    assert {"latents.html", "latents_data/0.js"} <= names
    assert not {"absorption.html", "latents_data/secret.js"} & names
    assert any("absorption.html is left out" in line for line in said)


def test_names_in_a_card_are_text(home: Home, tmp_path: Path) -> None:
    """What a downloaded folder calls its masks and LM ends no table, opens no tag and no link."""
    copy = tmp_path / "copy" / home.run.run_id
    shutil.copytree(home.run.path, copy)
    results = json.loads((copy / "results.json").read_text())
    hostile = "<img src=x>|[a](javascript:b)`c`\n# d"
    results["config"]["lm"]["name"] = hostile
    results["config"]["lm"]["hook_name"] = hostile
    results["config"]["mask"][hostile] = {"_module_": "m", hostile: hostile}
    results["notes"] = {hostile: hostile}
    (copy / "results.json").write_text(json.dumps(results))
    publish(request(copy, dry_run=True, output_dir=tmp_path / "out"))
    text = card_of(files_of(tmp_path / "out")).text
    rendered = MarkdownIt("commonmark").enable("table").render(text)
    assert "<img src=x>" not in rendered
    assert 'href="javascript' not in rendered
    assert "<h1>d</h1>" not in rendered
    assert rendered.count("<h1>") == 1


def test_a_dry_run_replaces_what_one_wrote_and_nothing_else(home: Home, tmp_path: Path) -> None:
    out = tmp_path / "out"
    publish(request(home.run.path, dry_run=True, output_dir=out))
    (out / "stale").write_text("")
    publish(request(home.run.path, dry_run=True, output_dir=out))
    assert "stale" not in files_of(out)
    others = tmp_path / "others"
    others.mkdir()
    (others / "README.md").write_text("mine")
    with pytest.raises(InputError, match=r"^output_dir=.*: expected a new folder"):
        publish(request(home.run.path, dry_run=True, output_dir=others))
    assert files_of(others) == {"README.md": b"mine"}


def test_only_what_is_done_and_whole_is_published(home: Home, tmp_path: Path) -> None:
    copy = RunFolder(tmp_path / "copy" / home.run.run_id)
    shutil.copytree(home.run.path, copy.path)
    weights = bytearray((copy.sae / "sae_weights.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy.sae / "sae_weights.safetensors").write_bytes(weights)
    with pytest.raises(DamagedFileError, match="other bytes than were exported"):
        publish(request(copy.path, dry_run=True))
    state = read_state(copy.state)
    assert state is not None
    write_state(copy.state, state, status="running")
    with pytest.raises(InputError, match=r"^run=.*: expected a run that is done: this folder is running$"):
        publish(request(copy.path, dry_run=True))
    with pytest.raises(InputError, match=r"^sweep=.*: expected a folder with runs that are done"):
        publish(request(copy.path.parent, is_sweep=True, dry_run=True))
    assert not Path("published").exists()


def test_a_name_that_no_repository_has_is_refused_before_anything_is_asked(home: Home, hub: PublishingHub) -> None:
    for name in ("a/b/c", "a--b", "-a", "a b", "x" * 97):
        with pytest.raises(InputError, match=r"^repo=.*: expected owner/name"):
            publish(request(home.run.path, repo=name))
    with pytest.raises(InputError, match=r"^output_dir=.*: expected dry_run=true"):
        publish(request(home.run.path, output_dir=Path("out")))
    assert hub.asked == []


@pytest.mark.parametrize(
    ("refused", "status", "said"),
    [
        ("/api/whoami-v2", 401, "a login that the hub knows"),
        ("/api/repos/create", 403, "a token that may write there"),
        ("/api/models/ada/saes/commit", 403, "a token that may write there"),
        ("/api/models/ada/saes/commit", 409, "nobody else at work on the repository"),
        ("/stored/", 403, "a token that may write there"),
        ("/api/models/ada/saes/preupload", 413, "less at once"),
    ],
)
def test_what_the_hub_refuses_is_one_line_and_nothing_is_published(
    home: Home, hub: PublishingHub, refused: str, status: int, said: str
) -> None:
    hub.refuse[refused] = status
    with pytest.raises(InputError, match=f"^repo=ada/saes: expected {said}.*hub said {status}"):
        publish(request(home.run.path))
    assert all(one.files == {} for one in hub.repositories.values())


@pytest.mark.parametrize(
    ("lm", "name"),
    [
        ("EleutherAI/pythia-160m-deduped", "EleutherAI/pythia-160m-deduped"),
        ("gpt2", "gpt2"),
        ("assets/tiny_lm", None),  # a folder of the checkout
        ("/models/pythia", None),
        ("./pythia", None),
        ("", None),
    ],
)
def test_an_lm_in_a_folder_is_no_base_model_of_the_hub(lm: str, name: str | None) -> None:
    assert hub_name(lm) == name


def test_without_a_login_or_a_network_one_line_says_so(
    home: Home, hub: PublishingHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.close()
    with pytest.raises(InputError, match=r"^repo=ada/saes: expected a hub that can be reached.*dry_run=true"):
        publish(request(home.run.path))
    monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="HF_HUB_OFFLINE is set"):
        publish(request(home.run.path))
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(InputError, match=r"^repo=ada/saes: expected a login"):
        publish(request(home.run.path))


def test_a_public_repository_gets_nothing_that_should_be_private(home: Home, hub: PublishingHub) -> None:
    publish(request(home.run.path, private=False))
    assert not hub.repositories["ada/saes"].private
    with pytest.raises(InputError, match=r"^private=True: expected false: ada/saes is there, and public"):
        publish(request(home.run.path))
    assert len(hub.repositories["ada/saes"].commits) == 1


def test_what_a_repository_has_besides_stays(home: Home, hub: PublishingHub) -> None:
    publish(request(home.run.path))
    repository = hub.repositories["ada/saes"]
    repository.files |= {"theirs.txt": b"theirs", "README.md": b"of before"}
    publish(request(home.run.path))
    assert repository.files["theirs.txt"] == b"theirs"
    assert repository.files["README.md"].startswith(b"---")


def test_a_dry_run_needs_no_owner_and_no_hub(home: Home, tmp_path: Path) -> None:
    said = publish(request(home.run.path, repo="saes", dry_run=True))
    assert said[-1] == "published/saes: what would go to YOUR-NAME/saes; nothing was uploaded"
    front = (tmp_path / "published" / "saes" / "README.md").read_text().split("---\n")[1]
    assert yaml.safe_load(front)["library_name"] == "saelens"
