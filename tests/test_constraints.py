"""The versions that are pinned: those of both environments, as a file for each has them."""

from support.making import ROOT


def pinned(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text().splitlines()
    return {package.lower(): version for package, version in (line.split("==") for line in lines)}


def test_both_environments_differ_in_the_lm_library_and_the_peers_alone() -> None:
    main, other = pinned("constraints.txt"), pinned("constraints-tl4.txt")
    assert not other.keys() - main.keys()
    assert {package for package in other if other[package] != main[package]} == {"transformer-lens"}
    assert (main["transformer-lens"].split(".")[0], other["transformer-lens"].split(".")[0]) == ("3", "4")
    assert {"sae-lens", "eai-sparsify"} <= main.keys() - other.keys()
