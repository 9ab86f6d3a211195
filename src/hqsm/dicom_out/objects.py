"""Parametric Maps, a Segmentation and a measurement report (TID 1500), made by highdicom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from hqsm.arrays import FloatArray, Mask
from hqsm.dicom_out.quantities import MEASURED, Quantity
from hqsm.dicom_out.series import Visit

_LIVER = Code("10200004", "SCT", "Liver")
_VESSEL = Code("59820001", "SCT", "Blood vessel")
_ORGAN = Code("123037004", "SCT", "Anatomical Structure")
_DRAWN = "1.2.826.0.1.3680043.10.511.3."
"""Root of the UIDs that highdicom draws at random."""
_MEDIAN = Code("373099004", "SCT", "Median")


def parametric_map(visit: Visit, quantity: Quantity, volume: FloatArray, sources: Sequence[Dataset], number: int) -> Dataset:
    """A map (x, y, z) as a float32 Parametric Map on the slices of ``sources``; NaN stays NaN."""
    import highdicom as hd

    unit = Code(quantity.unit[0], "UCUM", quantity.unit[1])
    mapping = hd.pm.RealWorldValueMapping(
        lut_label=quantity.suffix[:16],
        lut_explanation=quantity.code[2],
        unit=unit,
        value_range=(-1e9, 1e9),
        slope=1.0,
        intercept=0.0,
        quantity_definition=Code(*quantity.code),
    )
    low, high = quantity.window
    made = hd.pm.ParametricMap(
        source_images=list(sources),
        pixel_array=np.ascontiguousarray(np.transpose(volume, (2, 1, 0)), dtype=np.float32),
        series_instance_uid=visit.uid("pm", quantity.suffix),
        sop_instance_uid=visit.uid("pm", quantity.suffix, 1),
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[mapping],
        voi_lut_transformations=[hd.VOILUTTransformation(window_center=(low + high) / 2, window_width=high - low)],
        **_equipment(visit, number),
    )
    made.BodyPartExamined = "LIVER"
    return _fixed(made, visit, f"{quantity.code[2]} parametric map")


def segmentation(visit: Visit, masks: Mapping[str, Mask], sources: Sequence[Dataset], number: int, *, automatic: bool) -> Dataset:
    """The masks ``liver`` and ``vessel`` (x, y, z) that are not empty, as a binary Segmentation."""
    import highdicom as hd

    codes = {"liver": _LIVER, "vessel": _VESSEL}
    shown = [name for name in codes if name in masks and masks[name].any()]
    algorithm = hd.AlgorithmIdentificationSequence(name="hqsm", family=Code("123106", "DCM", "Segmentation"), version=visit.software)
    descriptions = [
        hd.seg.SegmentDescription(
            segment_number=k,
            segment_label=name,
            segmented_property_category=_ORGAN,
            segmented_property_type=codes[name],
            algorithm_type="AUTOMATIC" if automatic else "MANUAL",
            algorithm_identification=algorithm if automatic else None,
            tracking_uid=visit.uid("segment", name),
            tracking_id=name,
        )
        for k, name in enumerate(shown, start=1)
    ]
    pixels = np.stack([np.transpose(masks[name], (2, 1, 0)) for name in shown], axis=-1).astype(np.uint8)
    made = hd.seg.Segmentation(
        source_images=list(sources),
        pixel_array=pixels,
        segmentation_type="BINARY",
        segment_descriptions=descriptions,
        series_instance_uid=visit.uid("seg"),
        sop_instance_uid=visit.uid("seg", 1),
        omit_empty_frames=False,
        **_equipment(visit, number),
    )
    made.BodyPartExamined = "LIVER"
    return _fixed(made, visit, "liver and vessels")


def measurement_report(visit: Visit, row: Mapping[str, Any], segments: Dataset, sources: Sequence[Dataset], number: int) -> Dataset:
    """The liver's values of one visit (columns of lic.tsv) as a TID 1500 report; values that are missing are left out."""
    import highdicom as hd

    device = hd.sr.DeviceObserverIdentifyingAttributes(uid=visit.uid("device"), name="hqsm", manufacturer_name="hQSM")
    context = hd.sr.ObservationContext(
        observer_device_context=hd.sr.ObserverContext(
            observer_type=hd.sr.CodedConcept("121007", "DCM", "Device"), observer_identifying_attributes=device
        )
    )
    measurements = [
        hd.sr.Measurement(
            name=Code(*quantity.code),
            value=float(f"{float(row[quantity.column]):.9g}"),
            unit=Code(quantity.unit[0], "UCUM", quantity.unit[1]),
            derivation=_MEDIAN,
        )
        for quantity in MEASURED
        if _finite(row.get(quantity.column))
    ]
    region = hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(uid=visit.uid("segment", "liver"), identifier="liver"),
        referenced_segment=hd.sr.ReferencedSegment(
            sop_class_uid=segments.SOPClassUID,
            sop_instance_uid=segments.SOPInstanceUID,
            segment_number=1,
            source_series=hd.sr.SourceSeriesForSegmentation(sources[0].SeriesInstanceUID),
        ),
        finding_type=_LIVER,
        finding_sites=[hd.sr.FindingSite(anatomic_location=_LIVER)],
        measurements=measurements,
    )
    content = hd.sr.MeasurementReport(
        observation_context=context,
        procedure_reported=Code("43566-9", "LN", "MR Liver"),
        imaging_measurements=[region],
    )
    made = hd.sr.Comprehensive3DSR(
        evidence=[segments, *sources],
        content=content,
        series_instance_uid=visit.uid("sr"),
        series_number=number,
        sop_instance_uid=visit.uid("sr", 1),
        instance_number=1,
        manufacturer="hQSM",
        is_complete=True,
    )
    return _fixed(made, visit, "liver iron")


def _finite(value: Any) -> bool:
    try:
        return bool(np.isfinite(float(value)))
    except (TypeError, ValueError):
        return False


def _equipment(visit: Visit, number: int) -> dict[str, Any]:
    return {
        "series_number": number,
        "instance_number": 1,
        "manufacturer": "hQSM",
        "manufacturer_model_name": "hqsm",
        "software_versions": visit.software,
        "device_serial_number": "0",
    }


def _fixed(made: Dataset, visit: Visit, description: str) -> Dataset:
    """Dates of the visit instead of those of the export, and UIDs that follow from it, so that equal content gives equal bytes."""
    drawn: dict[str, str] = {}

    def walk(dataset: Dataset) -> None:
        for element in dataset:
            if element.VR == "SQ":
                for item in element.value:
                    walk(item)
            elif element.VR == "UI" and str(element.value).startswith(_DRAWN):
                number = len(drawn) + 1
                element.value = drawn.setdefault(str(element.value), visit.uid(description, "drawn", number))
            elif element.VR == "TM" and element.value:
                element.value = "000000"
            elif element.VR == "DA" and element.value:
                element.value = visit.date
            elif element.VR == "DT" and element.value:
                element.value = f"{visit.date}000000"

    walk(made)
    made.SeriesDescription = description
    return made
