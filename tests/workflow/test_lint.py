import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_snakemake_lint_finds_nothing(tmp_path: Path) -> None:
    visit = tmp_path / "dicom" / "sub-01" / "ses-01"
    visit.mkdir(parents=True)
    (visit / "a").write_bytes(b"0")
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(tmp_path), "--lint"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert "Congratulations" in done.stdout + done.stderr, done.stdout + done.stderr
