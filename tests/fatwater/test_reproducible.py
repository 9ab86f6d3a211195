"""The same echoes give the same bytes, whether the fit is compiled in this process or was compiled before."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import hqsm
from hqsm import compiled
from hqsm.compiled import sources

PACKAGE = Path(hqsm.__file__).parent
FIT = """
import hashlib
from dataclasses import fields
import numpy as np
from hqsm.config.fatwater import FatWaterParams
from hqsm.fatwater.separation import separate
from hqsm.phantom.forward import LiverState, ScanProtocol, simulate_abdomen
from hqsm.data import MultiEcho
protocol = ScanProtocol(echo_times_s=tuple(1e-3 * (1 + n) for n in range(6)), field_strength_tesla=3.0, shape=(64, 50, 12),
                        voxel_size_mm=(5.5, 5.5, 10.0), snr=40.0)
made = simulate_abdomen(LiverState(lic_mg_g=12.0, pdff_percent=20.0), protocol, 3, 3).echoes
echoes = MultiEcho(signal=made.signal[..., 0], echo_times_s=made.echo_times_s, field_strength_tesla=3.0, grid=made.grid, noise_sd=2.5)
maps = separate(echoes, FatWaterParams())
digest = hashlib.sha256()
for entry in fields(maps):
    value = getattr(maps, entry.name)
    if isinstance(value, np.ndarray):
        digest.update(np.ascontiguousarray(value).tobytes())
print(digest.hexdigest())
"""


@pytest.mark.slow
def test_the_run_that_compiles_gives_the_bytes_of_those_after_it(tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PACKAGE.parent)}
    cache = compiled.cache_folder()
    if list(cache.rglob("*.nbi")):
        cache = tmp_path
        environment["NUMBA_CACHE_DIR"] = str(cache)
    # else it is the compilation that all tests need, which takes two minutes: once, not twice
    first, second = (
        subprocess.run([sys.executable, "-c", FIT], env=environment, check=True, capture_output=True, text=True).stdout for _ in range(2)
    )
    assert list(cache.rglob("*.nbi"))
    assert first == second


def test_nothing_is_compiled_so_that_sums_may_change_their_order() -> None:
    """What `fastmath` allows depends on how often the compiler looks at a loop."""
    assert len(sources()) > 5
    assert not [path.name for path in sources() if "fastmath=" in path.read_text(encoding="utf-8")]
    elsewhere = [path.name for path in PACKAGE.rglob("*.py") if path not in sources() and "njit(" in path.read_text(encoding="utf-8")]
    assert not elsewhere, "compiled without hqsm.compiled"


@pytest.mark.parametrize("changed", ["lanes.py", "period.py"])
def test_a_change_of_any_file_that_compiles_gives_all_of_them_a_new_cache(
    changed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, copied = compiled.cache_folder(), sources()
    monkeypatch.setattr(compiled, "_PACKAGE", tmp_path)
    for path in copied:
        copy = tmp_path / path.relative_to(PACKAGE)
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(path.read_bytes())
    assert compiled.cache_folder().name == before.name
    with (tmp_path / "fatwater" / changed).open("a", encoding="utf-8") as file:
        file.write("# another constant\n")
    assert compiled.cache_folder().name != before.name


def test_compiled_code_takes_nothing_from_a_file_that_does_not_count_for_its_cache() -> None:
    """A number or function of another file is frozen into what is compiled."""
    counted = {"hqsm." + ".".join(path.relative_to(PACKAGE).with_suffix("").parts) for path in sources()}
    for path in sources():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        foreign = {
            alias.asname or alias.name
            for node in tree.body
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hqsm") and node.module not in counted
            for alias in node.names
        }
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and any("njit" in ast.unparse(d) for d in node.decorator_list):
                used = {name.id for statement in node.body for name in ast.walk(statement) if isinstance(name, ast.Name)}
                assert not used & foreign, f"{path.name}: {node.name}"


@pytest.mark.parametrize(("given", "taken"), [({}, "passive"), ({"OMP_WAIT_POLICY": "active"}, "active")])
def test_threads_that_wait_leave_their_core_to_others_unless_told_otherwise(given: dict[str, str], taken: str) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
    environment |= {"PYTHONPATH": str(PACKAGE.parent), **given}
    command = [sys.executable, "-c", "import os, hqsm.compiled; print(os.environ['OMP_WAIT_POLICY'])"]
    assert subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.strip() == taken
