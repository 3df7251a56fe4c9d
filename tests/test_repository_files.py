"""Files that other programs read from the repository: workflows, issue forms, the citation."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

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


def test_what_workflows_start_is_there() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    started = [
        step["run"]
        for path in (ROOT / ".github" / "workflows").glob("*.yml")
        for job in yaml.safe_load(path.read_text())["jobs"].values()
        for step in job["steps"]
        if "run" in step
    ]
    made = {target for line in started if line.startswith("make ") for target in line.split()[1:]}
    assert made <= targets and {"lint", "test-tl4", "release", "docs"} <= made
    assert ".ci/run" in started and os.access(ROOT / ".ci" / "run", os.X_OK)
