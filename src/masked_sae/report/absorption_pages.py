"""Pages of absorption, token by token, that lie in the folders of runs: what the report's figures of it link to."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from masked_sae.runs.folder import RunFolder

_SHOWN = 24


@dataclass(frozen=True)
class AbsorptionPages:
    """Attributes:
    links: what each page is of, and where it lies.
    more: how many others there are.
    """

    links: tuple[tuple[str, str], ...]
    more: int


def find_absorption_pages(link_of: Mapping[str, str]) -> AbsorptionPages:
    """Of two runs first.

    Args:
        link_of: of each run's folder, where it lies from the report.
    """
    found: list[tuple[bool, str, str]] = []
    for place, link in link_of.items():
        folder = RunFolder(Path(place))
        for other, path in folder.absorption_pages().items():
            name = f"{folder.run_id} against {other}" if other else folder.run_id
            found.append((not other, name, link + quote(path.name)))
    links = tuple((name, link) for _, name, link in sorted(found))
    return AbsorptionPages(links[:_SHOWN], max(0, len(links) - _SHOWN))
