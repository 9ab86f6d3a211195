"""Series that are no complex multi-echo images are named for what they are."""

import numpy as np
import pytest
from pydicom.dataset import Dataset

from hqsm.dicom.classification import kind_of_rest, other_than_complex
from hqsm.dicom.conventions import convention_of, phase_scaling
from hqsm.dicom.files import kind_of_class
from hqsm.dicom.frames import Header

MR, ENHANCED = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.4.1"


def header(**values: object) -> Header:
    ds = Dataset()
    ds.SOPClassUID = MR
    for name, value in values.items():
        setattr(ds, name, value)
    return Header(ds)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("field map", {"ImageType": ["ORIGINAL", "PRIMARY", "B0 MAP", "B0", "UNSPECIFIED"]}),
        ("field map", {"FrameType": ["ORIGINAL", "PRIMARY", "T1", "FIELD_MAP"], "ComplexImageComponent": "REAL", "SOPClassUID": ENHANCED}),
        ("field map", {"ImageType": ["ORIGINAL", "PRIMARY", "OTHER"], "RescaleType": "Hz"}),
        ("T2* or R2* map", {"ImageType": ["DERIVED", "PRIMARY", "M", "ND", "T2_STAR MAP"]}),
        ("T2* or R2* map", {"ImageType": ["ORIGINAL", "PRIMARY", "R2_STAR", "M", "FFE"]}),
        ("phase difference", {"ImageType": ["ORIGINAL", "PRIMARY", "P", "ND"], "SequenceName": "*fm2d2r"}),
        ("velocity map", {"ImageType": ["ORIGINAL", "PRIMARY", "VELOCITY MAP", "P", "PCA"]}),
        ("diffusion image", {"ImageType": ["ORIGINAL", "PRIMARY", "DIFFUSION", "NONE", "ND"]}),
        ("diffusion image", {"ImageType": ["ORIGINAL", "PRIMARY", "M"], "DiffusionBValue": 800.0}),
        ("localizer", {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}),
        ("fat-water image of the scanner", {"ImageType": ["DERIVED", "PRIMARY", "DIXON", "WATER"]}),
        ("susceptibility-weighted image", {"ImageType": ["ORIGINAL", "PRIMARY", "M", "SWI", "NORM"]}),
        ("projection or reformat", {"ImageType": ["DERIVED", "SECONDARY", "MPR"]}),
        ("secondary capture", {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}),
        ("segmentation", {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.4"}),
        ("spectroscopy", {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.4.2"}),
        ("report", {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.33"}),
        (None, {"ImageType": ["ORIGINAL", "PRIMARY", "PHASE MAP", "P", "FFE"]}),
        (None, {"ImageType": ["ORIGINAL", "PRIMARY", "M", "ND", "NORM"]}),
        (None, {"ImageType": ["ORIGINAL", "PRIMARY", "P", "ND"], "SequenceName": "*fl3d6"}),
    ],
)
def test_an_image_is_named_for_what_its_header_says(kind: str | None, values: dict[str, object]) -> None:
    assert other_than_complex(header(**values)) == kind


def test_what_is_left_over_is_told_apart() -> None:
    assert kind_of_rest(header(SeriesDescription="3-plane localizer", ImageType=["ORIGINAL", "PRIMARY", "OTHER"])) == "localizer"
    assert kind_of_rest(header(ImageType=["DERIVED", "PRIMARY"])) == "derived image"
    assert kind_of_rest(header(ImageType=["ORIGINAL", "PRIMARY", "GDC"])) == "image of no stated part"
    assert kind_of_class("1.2.840.10008.5.1.4.1.1.66") == "raw data"


@pytest.mark.parametrize(
    ("stored", "radians", "values"),
    [
        (0, -np.pi, {"BitsStored": 12, "PixelRepresentation": 0}),
        (2048, 0, {"BitsStored": 12, "PixelRepresentation": 0}),
        (-2048, -np.pi, {"BitsStored": 12, "PixelRepresentation": 1, "RescaleSlope": "2", "RescaleIntercept": "0"}),
        (4095, 3141e-3, {"BitsStored": 12, "PixelRepresentation": 0, "RescaleSlope": "1.53455", "RescaleIntercept": "-3142"}),
        (90, np.pi / 2, {"BitsStored": 16, "PixelRepresentation": 1, "RescaleType": "deg"}),
        (90, np.pi / 2, {"BitsStored": 16, "PixelRepresentation": 1, "RescaleType": "degree"}),
        (90, np.pi / 2, {"BitsStored": 16, "PixelRepresentation": 1, "RescaleType": "Degrees"}),
        (2, 2.0, {"BitsStored": 16, "PixelRepresentation": 1, "RescaleType": "radians"}),
        (3000, 3.0, {"BitsStored": 16, "PixelRepresentation": 1, "RescaleType": "MRAD"}),
        (3000, 3.0, {"BitsStored": 16, "PixelRepresentation": 1, "SmallestImagePixelValue": -3141, "LargestImagePixelValue": 3141}),
        (1, None, {"BitsStored": 16, "PixelRepresentation": 1, "SmallestImagePixelValue": -700, "LargestImagePixelValue": 800}),
        (1, None, {"BitsStored": 16, "PixelRepresentation": 0}),
        (1, None, {"BitsStored": 12, "PixelRepresentation": 0, "RescaleSlope": "0.3", "RescaleIntercept": "-100"}),
    ],
)
def test_the_unit_of_a_phase_follows_from_the_header_or_is_not_known(stored: int, radians: float | None, values: dict[str, object]) -> None:
    found = phase_scaling(header(**values))
    if radians is None:
        assert found is None
    else:
        assert found is not None
        assert found[0] * stored + found[1] == pytest.approx(radians, abs=2e-3)


@pytest.mark.parametrize(
    ("maker", "sop_class", "component", "name"),
    [
        ("SIEMENS", MR, None, "siemens-classic"),
        ("Siemens Healthineers", ENHANCED, "PHASE", "siemens-xa"),
        ("GE MEDICAL SYSTEMS", MR, None, "ge"),
        ("Philips", ENHANCED, "MIXED", "philips-enhanced"),
        ("Philips Medical Systems", MR, None, "philips-classic"),
        ("TOSHIBA", MR, None, "canon"),
        ("CANON_MEC", MR, "MAGNITUDE", "canon"),
        ("UIH", MR, "MAGNITUDE", "united-imaging"),
        ("Anybody", MR, "IMAGINARY", "vendor-neutral"),
        ("Anybody", MR, None, None),
    ],
)
def test_the_convention_follows_from_the_maker_the_class_and_the_component(
    maker: str, sop_class: str, component: str | None, name: str | None
) -> None:
    values: dict[str, object] = {"Manufacturer": maker, "SOPClassUID": sop_class}
    if component:
        values["ComplexImageComponent"] = component
    found = convention_of(header(**values))
    assert (None if found is None else found.name) == name
