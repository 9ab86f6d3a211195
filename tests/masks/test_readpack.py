"""Blinded reading: nothing leaks, everything comes back to its scan, and what is locked stays."""

import csv
import os
import random
import shutil
import stat
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hqsm.cli import main
from hqsm.data import VoxelGrid
from hqsm.errors import InputError
from hqsm.masks import read_readings
from hqsm.nifti import load_volume, save_volume
from hqsm.readpack.keys import read_key
from hqsm.readpack.make import make_packs
from hqsm.readpack.plan import assign
from hqsm.tables import write_rows

SHAPE = (30, 24, 10)
VISITS = [("sub-01", "ses-01"), ("sub-01", "ses-02"), ("sub-02", "ses-01"), ("sub-03", "ses-01"), ("sub-04", "ses-01")]


@given(n=st.integers(1, 60), share=st.floats(0, 0.3), seed=st.integers(0, 2**32))
def test_every_reader_gets_every_scan_once_and_the_repeats_twice(n: int, share: float, seed: int) -> None:
    visits = [(f"sub-{k:02d}", "ses-01") for k in range(n)]
    cases = assign(visits, ["A", "B"], share, random.Random(seed))
    assert len({case.code for case in cases}) == len(cases)
    for reader in ("A", "B"):
        mine = [case for case in cases if case.reader == reader]
        assert [case.position for case in mine] == list(range(1, len(mine) + 1))
        counts = Counter(case.participant_id for case in mine)
        assert set(counts) == {name for name, _ in visits}
        repeats = sum(count - 1 for count in counts.values())
        assert max(counts.values()) <= 2
        assert repeats == (max(1, round(share * n)) if share > 0 and n >= 4 else round(share * n))
        place = {(case.participant_id, case.reading): case.position for case in mine}
        for name, count in counts.items():
            if count == 2:
                assert place[name, 2] > place[name, 1]


def test_order_codes_and_repeats_differ_between_readers_and_a_repeat_is_far_from_its_first() -> None:
    visits = [(f"sub-{k:02d}", "ses-01") for k in range(40)]
    cases = assign(visits, ["A", "B"], 0.125, random.Random(3))
    a, b = ([c for c in cases if c.reader == r] for r in ("A", "B"))
    assert [c.participant_id for c in a] != [c.participant_id for c in b]
    assert not {c.code for c in a} & {c.code for c in b}
    assert {c.participant_id for c in a if c.reading == 2} != {c.participant_id for c in b if c.reading == 2}
    for mine in (a, b):
        place = {(c.participant_id, c.reading): c.position for c in mine}
        distances = [place[name, 2] - place[name, 1] for name, reading in place if reading == 2]
        assert len(distances) == 5
        assert min(distances) >= 10


@pytest.fixture
def study(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for n, (participant, session) in enumerate(VISITS):
        affine = np.diag([-3.0, 3.0, 6.0, 1.0])
        affine[:3, 3] = [40.0 + n, -30.0, 5.0 * n]
        volume = np.zeros(SHAPE, np.float32)
        volume[3:27, 3:21] = 800 + 10 * n
        volume += rng.normal(0, 5, SHAPE)
        name = f"{participant}_{session}_echo-1_part-mag_MEGRE.nii.gz"
        save_volume(
            tmp_path / "study/results/bids" / participant / session / "anat" / name, volume, VoxelGrid(shape=SHAPE, affine_mm=affine)
        )
    rows = [{"participant_id": participant, "session_id": session} for participant, session in VISITS]
    write_rows(tmp_path / "study/results/tables/visits.tsv", "visits", rows)
    return tmp_path / "study"


def test_a_scan_that_was_taken_away_goes_to_no_reader(study: Path, tmp_path: Path) -> None:
    rows = [{"participant_id": participant, "session_id": session} for participant, session in VISITS[1:]]
    write_rows(study / "results/tables/visits.tsv", "visits", rows)
    assert main(["readpack", "make", str(study), "--readers", "A", "--keys", str(tmp_path / "keys"), "--out", str(tmp_path / "p")]) == 0
    assert {(case.participant_id, case.session_id) for case in read_key(tmp_path / "keys")} == set(VISITS[1:])


def test_a_scan_that_a_decision_excludes_goes_to_no_reader(study: Path, tmp_path: Path) -> None:
    lines = "participant_id,session_id,decision,who,when,why\n01,01,exclude,AB,2026-01-02,moved\n02,01,accept,AB,2026-01-02,looked at\n"
    (study / "decisions.csv").write_text(lines, encoding="utf-8")
    assert main(["readpack", "make", str(study), "--readers", "A", "--keys", str(tmp_path / "keys"), "--out", str(tmp_path / "p")]) == 0
    assert {(case.participant_id, case.session_id) for case in read_key(tmp_path / "keys")} == set(VISITS[1:])


@pytest.mark.parametrize(
    ("keys", "out", "readers", "code"),
    [
        ("p", "p", "A", "KEYS_PLACE"),
        ("p/keys", "p", "A", "KEYS_PLACE"),
        ("keys", "keys/p", "A", "KEYS_PLACE"),
        ("keys", "full", "A", "PACK_EXISTS"),
        ("keys", "p", "A,A", "PACK_READERS"),
        ("keys", "p", "../A", "PACK_READERS"),
        ("keys", "p", " ,", "PACK_READERS"),
    ],
)
def test_packs_that_would_give_something_away_or_overwrite_something_are_refused(
    study: Path, tmp_path: Path, keys: str, out: str, readers: str, code: str
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_bytes(b"")
    before = sorted(tmp_path.rglob("*_image.nii.gz"))
    with pytest.raises(InputError) as caught:
        make_packs(study, readers.split(","), tmp_path / keys, tmp_path / out, repeat_share=0.1, source=random.Random(0))
    assert caught.value.code == code
    assert sorted(tmp_path.rglob("*_image.nii.gz")) == before
    assert not (tmp_path / keys / "readpack_key.csv").exists()


@pytest.fixture
def packs(study: Path) -> Path:
    arguments = ["readpack", "make", str(study), "--readers", "A,B", "--keys", str(study.parent / "keys")]
    assert main([*arguments, "--out", str(study.parent / "packs")]) == 0
    return study.parent / "packs"


def keys_of(packs: Path) -> Path:
    return packs.parent / "keys"


def test_a_pack_tells_neither_who_nor_when(packs: Path) -> None:
    files = [path for path in packs.rglob("*") if path.is_file()]
    for reader in ("A", "B"):
        assert len(list((packs / f"reader-{reader}").glob("*_image.nii.gz"))) == 6
    for path in files:
        content = path.read_bytes()
        if path.name.endswith(".nii.gz"):
            image = nib.load(path)
            content = image.header.binaryblock + nib.load(path).get_fdata().tobytes()
            np.testing.assert_allclose(image.affine @ [*(np.array(SHAPE) - 1) / 2, 1], [0, 0, 0, 1], atol=1e-4)
            assert 895 < np.percentile(image.get_fdata(), 99.5) < 1105  # the visits' own are 805 to 865: none tells a scanner or a person
        for secret in ("sub-", "ses-", "2024", "2025", "2026"):
            assert secret.encode() not in content
            assert secret not in path.name
        assert os.stat(path).st_mtime == 946_684_800
    # a hidden repeat is not given away by equal bytes
    for reader in ("A", "B"):
        images = [path.read_bytes() for path in (packs / f"reader-{reader}").glob("*.nii.gz")]
        assert len(set(images)) == len(images)


def test_the_key_is_private_and_never_overwritten(study: Path, packs: Path) -> None:
    key = keys_of(packs) / "readpack_key.csv"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert stat.S_IMODE(keys_of(packs).stat().st_mode) == 0o700
    before = key.read_bytes()
    assert (
        main(["readpack", "make", str(study), "--readers", "A", "--keys", str(keys_of(packs)), "--out", str(study.parent / "other")]) == 2
    )
    assert key.read_bytes() == before


def test_a_keys_folder_that_others_can_reach_is_refused(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "repository" / ".git").mkdir(parents=True)
    (tmp_path / "open").mkdir(mode=0o755)
    for keys, word in (
        (study / "keys", "inside the study"),
        (tmp_path / "repository/keys", "repository"),
        (tmp_path, "around it"),
        (tmp_path / "open", "Others than you"),
    ):
        assert main(["readpack", "make", str(study), "--readers", "A", "--keys", str(keys), "--out", str(tmp_path / "p")]) == 2
        assert word in capsys.readouterr().err
    assert not (tmp_path / "p").exists()


def test_the_key_must_be_private_still_when_readings_are_locked(study: Path, packs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw_everything(packs)
    keys_of(packs).chmod(0o755)
    assert lock(study, packs) == 2
    assert "Others than you" in capsys.readouterr().err
    assert not (study / "locks").exists()


def test_the_key_itself_must_be_private_too(study: Path, packs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw_everything(packs)
    (keys_of(packs) / "readpack_key.csv").chmod(0o644)
    assert lock(study, packs) == 2
    assert "Others than you may read readpack_key.csv" in capsys.readouterr().err


def test_the_instructions_say_what_to_draw_and_where_to_put_it(packs: Path) -> None:
    for reader in ("A", "B"):
        page = (packs / f"reader-{reader}" / "instructions.html").read_text(encoding="utf-8")
        assert f"Reader {reader}, 6 cases" in page
        for word in ("worklist.csv", "masks", "whole liver", "liver-roi", "segment-1", "vessel", "comments.txt", "do not go back"):
            assert word in page


def draw(packs: Path, reader: str, code: str, box: tuple[slice, slice, slice], name: str = "") -> None:
    pack = packs / f"reader-{reader}"
    _, grid = load_volume(pack / f"{code}_image.nii.gz")
    mask = np.zeros(SHAPE, bool)
    mask[box] = True
    save_volume(pack / "masks" / f"{code}{name}.nii.gz", mask, grid)


def worklist(packs: Path, reader: str) -> list[str]:
    with (packs / f"reader-{reader}" / "worklist.csv").open(encoding="utf-8") as stream:
        return [row["code"] for row in csv.DictReader(stream)]


INSIDE = (slice(6, 16), slice(6, 14), slice(2, 8))


def draw_everything(packs: Path) -> None:
    for reader, first in (("A", 6), ("B", 7)):
        for case in [case for case in read_key(keys_of(packs)) if case.reader == reader]:
            draw(packs, reader, case.code, (slice(first, 16 + VISITS.index((case.participant_id, case.session_id))), *INSIDE[1:]))


def test_the_check_names_each_problem(packs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    codes = worklist(packs, "A")
    pack = packs / "reader-A"
    draw(packs, "A", codes[0], INSIDE)
    draw(packs, "A", codes[1], (slice(0, 6), slice(0, 8), slice(0, 10)))
    draw(packs, "A", codes[2], (slice(6, 8), slice(6, 8), slice(2, 4)))
    save_volume(pack / "masks" / f"{codes[3]}.nii.gz", np.ones(SHAPE, bool), VoxelGrid(shape=SHAPE, affine_mm=np.diag([2.0, 2, 2, 1])))
    shutil.copy(pack / "masks" / f"{codes[0]}.nii.gz", pack / "masks" / "ZZZZZZ.nii.gz")
    assert main(["readpack", "check", str(pack)]) == 1
    lines = capsys.readouterr().out.splitlines()
    said = {line.split()[0]: line.split()[1] for line in lines[:-1]}
    assert said == {
        "-": "PACK_STRANGER",
        codes[1]: "PACK_OUTSIDE",
        codes[2]: "PACK_SMALL",
        codes[3]: "MASK_GRID",
        codes[4]: "PACK_NO_MASK",
        codes[5]: "PACK_NO_MASK",
    }
    assert lines[-1] == "1 of 6 cases are complete; 6 problems."


def test_the_check_names_what_a_reader_drew_twice_or_not_at_all(packs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    codes = worklist(packs, "A")
    masks = packs / "reader-A" / "masks"

    def named(code: str, *labels: str) -> None:
        lines = ["index\tname", *(f"{k}\t{label}" for k, label in enumerate(labels, start=1))]
        (masks / f"{code}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")

    draw(packs, "A", codes[0], INSIDE)
    named(codes[0], "vessel")
    draw(packs, "A", codes[1], INSIDE)
    draw(packs, "A", codes[1], INSIDE, "_again")
    draw(packs, "A", codes[2], INSIDE, "_a")
    draw(packs, "A", codes[2], (slice(12, 20), *INSIDE[1:]), "_b")
    for name, segment in (("_a", "segment-5"), ("_b", "segment-6")):
        (masks / f"{codes[2]}{name}.tsv").write_text(f"index\tname\n1\t{segment}\n", encoding="utf-8")
    draw(packs, "A", codes[3], INSIDE)
    (masks / f"{codes[3]}.nii.gz").rename(masks / f"{codes[3].lower()}.nii.gz")  # as some readers' programs write it
    draw(packs, "A", codes[4], INSIDE)
    assert main(["readpack", "check", str(packs / "reader-A")]) == 1
    said = {line.split()[0]: line.split()[1] for line in capsys.readouterr().out.splitlines()[:-1]}
    assert said == {codes[0]: "PACK_NO_LIVER", codes[1]: "MASK_MANY", codes[2]: "PACK_OVERLAP", codes[5]: "PACK_NO_MASK"}


def test_a_complete_pack_has_no_problems(packs: Path) -> None:
    draw_everything(packs)
    assert main(["readpack", "check", str(packs / "reader-A")]) == 0


def lock(study: Path, packs: Path, *more: str) -> int:
    return main(["readpack", "lock", str(study), "--packs", str(packs), "--keys", str(keys_of(packs)), *more])


def test_a_locked_reading_lies_on_its_scan(study: Path, packs: Path) -> None:
    draw_everything(packs)
    assert lock(study, packs) == 0
    readings = 0
    for n, (participant, session) in enumerate(VISITS):
        _, grid = load_volume(next((study / "results/bids" / participant / session / "anat").glob("*.nii.gz")))
        found = read_readings(study / "rois" / participant / session, grid)
        assert {"A", "B"} <= set(found)
        readings += len(found)
        for name, labels in found.items():
            expected = np.zeros(SHAPE, bool)
            expected[(slice(6 if name.startswith("A") else 7, 16 + n), *INSIDE[1:])] = True
            np.testing.assert_array_equal(labels["liver"], expected)
    assert readings == 12
    assert "sub-" not in (study / "locks/readings.lock.json").read_text(encoding="utf-8")


def test_a_reading_of_images_that_are_not_the_packs_any_more_is_not_laid_on_them(
    study: Path, packs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw_everything(packs)
    participant, session = VISITS[3]
    path = next((study / "results/bids" / participant / session / "anat").glob("*.nii.gz"))
    kept = path.read_bytes()
    volume, grid = load_volume(path)
    save_volume(path, volume, VoxelGrid(shape=grid.shape, affine_mm=grid.affine_mm @ np.diag([1.0, 1.0, 1.1, 1.0])))
    assert lock(study, packs) == 2
    assert "is not the one of the pack any more" in capsys.readouterr().err
    assert not (study / "locks").exists()
    assert not (study / "rois").exists()  # not of the other cases either: the next try would find them as somebody else's
    path.write_bytes(kept)
    assert lock(study, packs) == 0


def test_masks_of_the_same_reader_from_elsewhere_are_not_mixed_in(study: Path, packs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw_everything(packs)
    other = study / "rois" / "sub-04" / "ses-01" / "liver_reader-B_dseg.nii.gz"
    other.parent.mkdir(parents=True)
    other.write_bytes(b"x")
    assert lock(study, packs) == 2
    assert "already has masks of reader B (sub-04/ses-01)" in capsys.readouterr().err
    other.rename(other.with_name("liver_reader-BA_dseg.nii.gz"))
    assert lock(study, packs) == 0


def test_labels_that_overlap_come_back_whole(study: Path, packs: Path) -> None:
    draw_everything(packs)
    case = next(case for case in read_key(keys_of(packs)) if case.reader == "A" and case.reading == 1)
    draw(packs, "A", case.code, (slice(8, 12), slice(8, 10), slice(3, 6)), "_vessel")
    (packs / "reader-A" / "masks" / f"{case.code}_vessel.tsv").write_text("index\tname\n1\tvessel\n", encoding="utf-8")
    assert lock(study, packs) == 0
    _, grid = load_volume(next((study / "results/bids" / case.participant_id / case.session_id / "anat").glob("*.nii.gz")))
    labels = read_readings(study / "rois" / case.participant_id / case.session_id, grid)["A"]
    assert set(labels) == {"liver", "vessel"}
    assert (labels["liver"] & labels["vessel"]).sum() == labels["vessel"].sum() == 4 * 2 * 3


def test_what_is_locked_does_not_change(study: Path, packs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw_everything(packs)
    assert lock(study, packs) == 0
    assert lock(study, packs) == 0
    code = worklist(packs, "B")[0]
    path = packs / "reader-B" / "masks" / f"{code}.nii.gz"
    assert not path.stat().st_mode & stat.S_IWUSR
    path.chmod(0o644)
    draw(packs, "B", code, INSIDE)
    assert lock(study, packs) == 2
    assert f"reader-B/{code}.nii.gz" in capsys.readouterr().err


def test_an_incomplete_reading_is_locked_only_when_asked(study: Path, packs: Path) -> None:
    draw_everything(packs)
    code = worklist(packs, "B")[0]
    (packs / "reader-B" / "masks" / f"{code}.nii.gz").unlink()
    assert lock(study, packs) == 2
    assert not (study / "rois").exists()
    assert lock(study, packs, "--accept-missing") == 0
    assert code in (study / "locks/readings.lock.json").read_text(encoding="utf-8")
