import re
import subprocess
import sys
from pathlib import Path

from hqsm.config.study import json_schema
from hqsm.config_documentation import as_markdown

ROOT = Path(__file__).resolve().parents[2]


def test_snakemake_lint_finds_nothing(tmp_path: Path) -> None:
    visit = tmp_path / "dicom" / "sub-01" / "ses-01"
    visit.mkdir(parents=True)
    (visit / "a").write_bytes(b"0")
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(tmp_path), "--lint"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert "Congratulations" in done.stdout + done.stderr, done.stdout + done.stderr


def test_every_rule_is_documented_with_what_it_makes() -> None:
    text = (ROOT / "docs" / "workflow.md").read_text(encoding="utf-8")
    picture = (ROOT / "docs" / "figures" / "rules.svg").read_text(encoding="utf-8")
    for path in (ROOT / "workflow" / "rules").glob("*.smk"):
        for rule in re.findall(r"^rule (\w+):", path.read_text(encoding="utf-8"), re.M):
            assert f"`{rule}`" in text, rule
            assert f">{rule}<" in picture or "dicom_export" in rule, f"{rule}: make dag"


def test_every_job_says_in_one_line_what_it_does_and_for_whom() -> None:
    for path in (ROOT / "workflow" / "rules").glob("*.smk"):
        for rule in re.split(r"^(?=rule \w+:)", path.read_text(encoding="utf-8"), flags=re.M)[1:]:
            name = rule[: rule.index(":")]
            if "dicom_export:" not in rule:  # a target, no job
                said = re.search(r"    message:\n        (.+)\n", rule)
                assert said, name
                assert ("{VISIT_NAME}" in said.group(1)) == ("{VISIT}.log" in rule), name


def test_the_configuration_is_documented_from_its_schema() -> None:
    assert (ROOT / "config" / "README.md").read_text(encoding="utf-8") == as_markdown(json_schema()), "make schema"
