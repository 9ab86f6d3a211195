"""An audit of the pinned dependencies without a network: known advisories, hashes, and what must not be there."""

import ast
import json
import re
import tomllib
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from hqsm.dicom.guarded import READABLE

ROOT = Path(__file__).resolve().parents[2]
AUDIT = json.loads((Path(__file__).with_name("advisories.json")).read_text(encoding="utf-8"))


def pins() -> dict[str, list[tuple[Version, str, int]]]:
    """Name to (version, marker, number of hashes) of every pin of the lock file."""
    found: dict[str, list[tuple[Version, str, int]]] = {}
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8").replace("\\\n", " ")
    for line in text.splitlines():
        match = re.match(r"^([A-Za-z0-9._-]+)==([^ ;]+)(?: *; *(.*?))?(?: +--hash|$)", line)
        if match:
            found.setdefault(match[1].lower(), []).append((Version(match[2]), match[3] or "", line.count("--hash=sha256:")))
    return found


def known_problems(pinned: dict[str, list[tuple[Version, str, int]]]) -> list[str]:
    return [
        f"{a['package']} {version}: {a['id']} ({a['what']})"
        for a in AUDIT["advisories"]
        for version, _, _ in pinned.get(a["package"], [])
        if version in SpecifierSet(a["affected"])
    ]


def test_no_pin_has_a_known_problem() -> None:
    assert not known_problems(pins())


def test_the_audit_finds_a_pin_with_a_known_problem() -> None:
    assert known_problems({"pydicom": [(Version("3.0.1"), "", 1)]})
    assert not known_problems({"pydicom": [(Version("3.0.2"), "", 1)]})


def test_every_pin_has_its_hashes() -> None:
    found = pins()
    assert len(found) > 40
    assert not [name for name, entries in found.items() for _, _, n in entries if n == 0]


def test_nothing_forbidden_is_pinned_and_nothing_compressed_is_decoded_where_it_is_installed() -> None:
    # highdicom, which writes segmentations for the tests, brings pyjpegls; a laboratory may have other decoders
    assert set(AUDIT["forbidden"]) & set(pins()) <= {"pyjpegls"}
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    assert not {"highdicom", *AUDIT["forbidden"]} & {re.split("[<>=]", requirement)[0].lower() for requirement in declared}
    # none of them is ever handed a byte: every file is read by the guarded reader, which decodes nothing compressed
    sources = [p for p in (ROOT / "src" / "hqsm").rglob("*.py") if re.search(r"dcmread|dcmread_partial", p.read_text(encoding="utf-8"))]
    assert [p.name for p in sources] == ["guarded.py"]
    assert not [syntax for syntax in READABLE if syntax.startswith("1.2.840.10008.1.2.4")]


def test_the_installed_reader_of_dicom_is_the_pinned_one() -> None:
    import pydicom

    assert Version(pydicom.__version__) in {version for version, _, _ in pins()["pydicom"]}
    assert Version(pydicom.__version__) >= Version("3.0.2")


def test_no_decoder_in_c_is_offered_for_what_the_reader_accepts() -> None:
    from pydicom.pixels import get_decoder
    from pydicom.uid import RLELossless

    assert set(get_decoder(RLELossless).available_plugins) == {"pydicom"}


FORBIDDEN_CALLS = {
    "pickle": "runs code from a file",
    "marshal": "runs code from a file",
    "shelve": "runs code from a file",
    "socket": "the program needs no network",
    "urllib.request": "the program needs no network",
    "http.client": "the program needs no network",
    "requests": "the program needs no network",
}


SERVER_OF_THIS_MACHINE = "fork_server.py"


def test_the_one_socket_is_of_this_machine_alone() -> None:
    source = (ROOT / "src" / "hqsm" / SERVER_OF_THIS_MACHINE).read_text(encoding="utf-8")
    made = [
        ast.unparse(node)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"socket.socket", "socket.create_connection", "socket.create_server"}
    ]
    assert len(made) == 3
    for call in made:
        assert "AF_UNIX" in call or call == "socket.socket(fileno=descriptor)", call


@pytest.mark.parametrize("path", sorted((ROOT / "src" / "hqsm").rglob("*.py")), ids=lambda p: p.relative_to(ROOT / "src").as_posix())
def test_the_package_evaluates_no_text_and_opens_no_connection(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        forbidden = set(FORBIDDEN_CALLS) - ({"socket"} if path.name == SERVER_OF_THIS_MACHINE else set())
        assert not set(names) & forbidden, names
        if isinstance(node, ast.Call):
            called = node.func.id if isinstance(node.func, ast.Name) else node.func.attr if isinstance(node.func, ast.Attribute) else ""
            assert called not in {"eval", "exec", "FileSet", "unsafe_load", "full_load"}, called
            keywords = {k.arg: k.value for k in node.keywords}
            shell = keywords.get("shell")
            assert not (isinstance(shell, ast.Constant) and shell.value), "a shell is started"
            allowed = keywords.get("allow_pickle")
            assert not (isinstance(allowed, ast.Constant) and allowed.value), "a pickle is read"


def test_markers_of_the_lock_can_be_read() -> None:
    for entries in pins().values():
        for _, marker, _ in entries:
            if marker:
                Marker(marker)
