"""What mkdocs.yml cannot say: pages from beside docs/, pages that are made of the code, and links between all."""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

import masked_sae
from every_setting import every_setting
from masked_sae import evals
from settings_page import settings_page

ROOT = Path(__file__).resolve().parents[1]
# Pages that lie beside docs/, and what they show. README is the site's first page.
_BESIDE = ("*.md", "benchmarks/*.md", "benchmarks/results/*.png", "docker/*/README.md", "assets/*/README.md")
_REFERENCE = """# Python reference

Made from docstrings. How these work together, with examples: [from Python](api.md).
Letters behind a tensor's name are its axes: `x_BD`.

"""
_LINK = re.compile(r"(\]\()(?!\w+:|#|/)([^)#\s]+)")


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages that are not in docs/."""
    for pattern in _BESIDE:
        for path in sorted(ROOT.glob(pattern)):
            at = path.relative_to(ROOT).as_posix()
            files.append(File.generated(config, _in_site(at), abs_src_path=str(path)))
    files.append(File.generated(config, "settings.md", content=settings_page(every_setting())))
    files.append(File.generated(config, "reference.md", content=reference_page()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links are written as the repository has the files; in the site some lie elsewhere."""
    uri: str = page.file.src_uri
    beside = page.file.generated_by is not None and page.file.abs_src_path is not None
    in_repository = "README.md" if uri == "index.md" else uri if beside else f"docs/{uri}"

    def moved(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(in_repository), link[2]))
        return link[1] + posixpath.relpath(_in_site(target), posixpath.dirname(uri) or ".")

    return _LINK.sub(moved, markdown)


def reference_page() -> str:
    """All that is public, by name."""
    own = [f"::: masked_sae.{name}" for name in masked_sae.__all__ if name != "evals"]
    of_evals = [f"::: masked_sae.evals.{name}" for name in evals.__all__]
    return _REFERENCE + "\n\n".join([*own, "## Metrics on activations: `masked_sae.evals`", *of_evals]) + "\n"


def _in_site(path: str) -> str:
    """Where the site has a file of the repository."""
    return "index.md" if path == "README.md" else path.removeprefix("docs/")
