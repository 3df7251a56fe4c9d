"""Files that other programs read from the repository: workflows, issue forms, the citation."""

import subprocess
import sys
from pathlib import Path

import pytest

from support.making import ROOT

FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
SCHEMAS = {
    "vendor.github-workflows": sorted((ROOT / ".github" / "workflows").glob("*.yml")),
    "vendor.github-issue-forms": [path for path in FORMS if path.name != "config.yml"],
    "vendor.github-issue-config": [path for path in FORMS if path.name == "config.yml"],
    "vendor.citation-file-format": [ROOT / "CITATION.cff"],
}


@pytest.mark.parametrize("schema", SCHEMAS)
def test_a_file_has_the_form_that_its_reader_wants(schema: str) -> None:
    assert SCHEMAS[schema]
    assert refused(schema, *SCHEMAS[schema]) == ""


def test_a_workflow_of_another_form_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.yml").write_text("on: push\njobs: {a: {runs-on: x, steps: [{uses: y, uses_: z}]}}\n")
    assert "uses_" in refused("vendor.github-workflows", tmp_path / "bad.yml")


def refused(schema: str, *files: Path) -> str:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, *map(str, files)]
    done = subprocess.run(command, text=True, capture_output=True, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr
