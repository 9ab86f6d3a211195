"""The command line: a mistake is answered by a sentence, and a wheel holds all that a command needs."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from hqsm.cli import main
from hqsm.workflow_folder import REPOSITORY


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["accuracy", "STUDY"], "Name a study that `hqsm simulate` wrote"),
        (["simulate", "STUDY/new", "--participants", "0"], "at least one participant"),
        (["simulate", "STUDY/file/new", "--participants", "1"], "STUDY/file"),
        (["run", "STUDY/typo"], "There is no folder STUDY/typo"),
        (["schema", "--nonsense"], None),
    ],
)
def test_a_mistake_is_answered_by_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str | None
) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    given = [argument.replace("STUDY", str(tmp_path)) for argument in arguments]
    if words is None:
        with pytest.raises(SystemExit):
            main(given)
        return
    assert main(given) == 2
    said = capsys.readouterr().err
    assert words.replace("STUDY", str(tmp_path)) in said
    assert said.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE", "Snakefile", "config.yaml", "src", "workflow", "envs"):
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy(source, folder / name)
    command = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "--no-cache-dir", "--quiet", "-w", "dist"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return next((folder / "dist").glob("*.whl"))


@pytest.mark.slow
def test_a_wheel_holds_every_file_of_the_package_and_of_the_workflow(wheel: Path) -> None:
    inside = {name.split("/data/share/hqsm/")[-1] for name in zipfile.ZipFile(wheel).namelist()}
    wanted = {"Snakefile", "config.yaml"}
    for folder in (REPOSITORY / "workflow", REPOSITORY / "envs", REPOSITORY / "src" / "hqsm"):
        files = [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
        wanted |= {path.relative_to(folder.parent).as_posix() for path in files}
    assert wanted - inside == set()


@pytest.mark.slow
def test_what_a_wheel_installs_plans_a_study_far_from_the_repository(wheel: Path, tmp_path: Path) -> None:
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--ignore-installed", "--quiet"]
    subprocess.run([*install, "--prefix", str(tmp_path / "env"), str(wheel)], check=True, capture_output=True)
    packages = next((tmp_path / "env").glob("lib/*/site-packages"))
    visit = tmp_path / "study" / "dicom" / "sub-01" / "ses-01"
    visit.mkdir(parents=True)
    (visit / "a").write_bytes(b"x")
    environment = {**os.environ, "PYTHONPATH": str(packages)}
    command = [sys.executable, "-m", "hqsm.cli", "run", str(tmp_path / "study"), "-n"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "env" / "share" / "hqsm" / "Snakefile") in done.stdout + done.stderr
    assert "study_report" in done.stdout + done.stderr
