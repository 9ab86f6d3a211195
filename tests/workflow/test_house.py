"""The rules of the house: who may import what, and that two lists of versions agree."""

import ast
import graphlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from hqsm.code_digest import code_digest, direct_imports, imports_of, module_closure, script_digest
from hqsm.run_state import STAGES

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "hqsm"
EDGES = {
    "archive",
    "bids",
    "bids_input",
    "blinding",
    "cli",
    "commands",
    "config_documentation",
    "code_digest",
    "compiled",
    "cohort_tables",
    "decisions",
    "derivatives",
    "dicom",
    "dicom_out",
    "fork_server",
    "intake.deidentify",
    "intake.filing",
    "intake.keys",
    "masks",
    "nifti",
    "physio",
    "private_folder",
    "provenance",
    "readpack",
    "report",
    "run_state",
    "stage",
    "study",
    "supervise",
    "study_status",
    "study_config",
    "tables",
    "workflow_folder",
    "workflow_support",
    "records.reading",
    "phantom.accuracy",
    "phantom.clinical",
    "phantom.cohort",
    "phantom.dicom_writer",
}
FORBIDDEN = {"pathlib", "nibabel", "pydicom", "json", "snakemake", "os", "csv", "subprocess"}


def modules() -> list[str]:
    return [".".join(p.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__") for p in SOURCE.rglob("*.py")]


def imported(name: str) -> set[str]:
    path = SOURCE / Path(*name.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def is_edge(name: str) -> bool:
    return any(name == edge or name.startswith(edge + ".") for edge in EDGES)


@pytest.mark.parametrize("name", [m for m in modules() if m != "__init__" and not is_edge(m)])
def test_science_imports_no_files_and_no_formats(name: str) -> None:
    assert not {m.split(".")[0] for m in imported(name)} & FORBIDDEN


@pytest.mark.parametrize("name", [m for m in modules() if not m.startswith("config") and m != "__init__"])
def test_pydantic_lives_only_in_config(name: str) -> None:
    assert "pydantic" not in {m.split(".")[0] for m in imported(name)}


def test_no_module_imports_itself_by_way_of_others() -> None:
    """A package's own ``__init__`` aside: it is imported before what lies in it."""
    files = {f"hqsm.{name}" for name in modules() if (SOURCE / Path(*name.split("."))).with_suffix(".py").is_file()}
    assert len(files) > 200
    graphlib.TopologicalSorter({name: (direct_imports(name) & files) - {name} for name in files}).prepare()


def test_the_simulator_shares_no_code_with_the_estimators() -> None:
    estimators = {"dipole", "fatwater", "gating", "inversion", "background_field", "susceptibility", "liver", "lic", "r2star"}
    for name in ("forward", "anatomy", "tissue", "dicom_writer", "clinical", "cohort"):
        reached = {m.split(".")[1] for m in module_closure(f"hqsm.phantom.{name}") if "." in m}
        assert not reached & estimators, name


def test_no_rule_reads_the_truth_of_a_simulation() -> None:
    for path in [ROOT / "Snakefile", *(ROOT / "workflow").rglob("*.smk"), *(ROOT / "workflow").rglob("*.py")]:
        assert "truth" not in path.read_text(encoding="utf-8"), path


def test_imaging_rules_have_no_record_among_their_inputs_or_code() -> None:
    for rule in ("gating", "water_fat", "regions", "susceptibility"):
        text = (ROOT / "workflow" / "rules" / f"{rule}.smk").read_text(encoding="utf-8")
        assert "record" not in text
    for module in ("hqsm.dicom.reader", "hqsm.gating.gate", "hqsm.fatwater.separation", "hqsm.susceptibility", "hqsm.lic"):
        assert not any(m.startswith("hqsm.records") for m in module_closure(module))


def test_the_workflow_imports_no_numpy_at_parse_time() -> None:
    for module in module_closure("hqsm.workflow_support"):
        if module != "hqsm.provenance" and not module.startswith("hqsm.arrays"):
            name = module.removeprefix("hqsm.")
            if name != "hqsm":
                assert "numpy" not in imported(name), module


def test_the_digest_covers_what_a_module_imports_and_nothing_else() -> None:
    assert "hqsm.dipole" in module_closure("hqsm.susceptibility")
    assert "hqsm.statistics.regression" not in module_closure("hqsm.susceptibility")
    assert "hqsm.units" in direct_imports("hqsm.data")
    assert len(code_digest("hqsm.lic")) == 12
    assert code_digest("hqsm.lic") != code_digest("hqsm.gating.gate")


def test_the_digest_of_a_rule_covers_every_module_that_its_script_imports(tmp_path: Path) -> None:
    script = tmp_path / "rule.py"
    script.write_text(
        "from hqsm.stage import run_visit_stage\n\ndef work(job):\n    from hqsm.archive import load_noun\n", encoding="utf-8"
    )
    assert imports_of(script) == {"hqsm.stage", "hqsm.archive"}
    assert script_digest(script) == code_digest("hqsm.archive", script=script)
    assert script_digest(script) != code_digest(script=script)
    assert {path.stem for path in (ROOT / "workflow" / "scripts").glob("*.py")} >= set(STAGES)


def test_the_conda_environment_has_the_versions_of_the_lock_file() -> None:
    wanted = yaml.safe_load((ROOT / "envs" / "hqsm.yaml").read_text(encoding="utf-8"))["dependencies"]
    listed = dict(item.split(" =") for item in wanted if not item.startswith("python "))
    locked: dict[str, str] = {}
    for line in (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines():
        match = re.match(r"^([A-Za-z0-9._-]+)==([^ \\]+)(?: ; (.+?))? ?\\?$", line)
        if match and (match[3] is None or "< '3.12'" in match[3]):
            locked[match[1].lower()] = match[2]
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    names = {re.split("[<>=]", requirement)[0] for requirement in declared}
    assert set(listed) == names
    assert listed == {name: locked[name.lower()] for name in names}


def test_what_the_columns_of_the_cohorts_tables_mean_reruns_no_map() -> None:
    scripts = [ROOT / "workflow" / "scripts" / f"{stage}.py" for stage in STAGES if stage != "visit_page"]
    reached = {name for script in scripts for own in imports_of(script) - {"hqsm.stage"} for name in module_closure(own)}
    assert "hqsm.derivatives" in reached
    assert not reached & {"hqsm.table_contract", "hqsm.tables"}


HEAVY = {"numpy", "scipy", "pandas", "numba", "nibabel", "pydicom", "matplotlib", "pydantic", "snakemake"}


@pytest.mark.parametrize("start", ["from hqsm.cli import main; main(['--help'])", "import hqsm.stage"])
def test_the_command_line_and_a_jobs_own_process_import_no_library_before_there_is_work(start: str) -> None:
    """The work of a job is done in a child of the run's fork server, which has the libraries in memory."""
    program = f"import sys, atexit; atexit.register(lambda: print(*sys.modules, file=sys.stderr)); {start}"
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    loaded = set(said.stderr.split())
    assert "hqsm" in loaded
    assert not loaded & HEAVY


@pytest.mark.parametrize(
    "path",
    [
        *("background_field/lbv", "background_field/pdf", "background_field/vsharp"),
        *("inversion/tkd", "inversion/tikhonov", "inversion/medi", "inversion/tfi"),
        *("liver/references/subcutaneous_fat", "liver/references/muscle", "liver/references/aorta"),
    ],
)
def test_every_published_method_cites_its_paper_and_says_its_numbers_in_one_place(path: str) -> None:
    tree = ast.parse((SOURCE / f"{path}.py").read_text(encoding="utf-8"))
    assert re.search(r"[A-Z][a-z]+ et al\.[^)]{0,30}\d{4};\d+:\d+", (ast.get_docstring(tree) or "").replace("\n", " "))
    if path.startswith("liver"):
        inside = [
            node.value
            for function in tree.body
            if isinstance(function, ast.FunctionDef)
            for node in ast.walk(function)
            if isinstance(node, ast.Constant)
        ]
        numbers = {abs(value) for value in inside if isinstance(value, int | float) and not isinstance(value, bool)}
        # indices, what stands for a missing value, tesla and the percentile that leaves out a stray voxel
        assert numbers <= {0, 1, 2, 1e-6, 1e3, 1.5, 99}, numbers
