"""The commands that README and docs print, as a shell would start them."""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from support.making import ROOT

PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "benchmarks/RESULTS.md",
    *sorted(f"docs/{p.name}" for p in ROOT.glob("docs/*.md")),
)
_BLOCK = re.compile(r"(?:^(?: {4}.*)?\n)*^ {4}.*\n?", re.MULTILINE)
_FENCED = re.compile(r"^```(?:bash|sh|shell|console)?\n(.*?)^```", re.MULTILINE | re.DOTALL)
_SHELL = re.compile(
    r"(?:[A-Z_]+=\S+ )*"
    r"(?:python[\d.]*|make|pip|git|cd|cp|hf|mkdir|export|source|docker/\S+|docker|apptainer|masked-sae-\S+|[A-Z]+=\".*"
    r"|for|eval)(?=\s|$)"
)
# What a shell would start is written down in place of being started.
_RECORDING = r"""
command_not_found_handle() { (printf '%s\0' "$@"; echo) >> "$RECORD"; }
for name in python python3 python3.11 make pip git source docker apptainer buildah; do
    eval "$name() { command_not_found_handle $name \"\$@\"; }"
done
id() { echo 1000; }
cd() { :; }
cp() { :; }
mkdir() { :; }
"""


@dataclass(frozen=True)
class Printed:
    page: str
    words: tuple[str, ...]

    @property
    def text(self) -> str:
        return " ".join(self.words)

    @property
    def module(self) -> str | None:
        """Of `python -m`."""
        return self.words[2] if self.words[0].startswith("python") and self.words[1:2] == ("-m",) else None


def printed_commands(page: str) -> list[Printed]:
    """Those of one page, variables and loops of the shell worked out."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found: list[Printed] = []
    for block in shell_blocks(text):
        found += [Printed(page, words) for words in _started(block)]
    return found


def shell_blocks(text: str) -> list[str]:
    """Of a page in Markdown, without prompts and indentation."""
    fenced = [match[1] for match in _FENCED.finditer(text)]
    indented = [match[0] for match in _BLOCK.finditer(re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))]
    blocks = [re.sub(r"^ {4}", "", block, flags=re.MULTILINE).strip("\n") for block in [*fenced, *indented]]
    return [block for block in blocks if _SHELL.match(block)]


def _started(block: str) -> list[tuple[str, ...]]:
    with TemporaryDirectory() as folder:
        record = Path(folder) / "record"
        record.touch()
        for script in set(re.findall(r"(?<![\w./-])[\w.-]+/[\w./-]+(?=[\s)]|$)", block)):
            if (ROOT / script).is_file() and script.endswith(".sh"):
                stub = Path(folder) / script
                stub.parent.mkdir(parents=True, exist_ok=True)
                stub.write_text(
                    f'#!/bin/bash\nprintf \'%s\\0\' {script} "$@" >> "$RECORD"; printf \'\\n\' >> "$RECORD"\n'
                )
                stub.chmod(0o755)
        ended = subprocess.run(
            ["bash", "-c", _RECORDING + block.replace("[--", "# [--")],
            cwd=folder,
            env={"RECORD": str(record), "PATH": "/usr/bin:/bin", "USER": "you", "HOME": folder},
            capture_output=True,
            text=True,
            check=False,
        )
        if "syntax error" in ended.stderr:
            raise AssertionError(f"{ended.stderr}\n{block}")
        lines = record.read_text(encoding="utf-8").replace(folder, "/here").splitlines()
    return [tuple(line.split("\0")[:-1]) for line in lines]
