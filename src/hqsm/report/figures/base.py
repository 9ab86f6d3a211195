"""What every figure of the report gets, and what it hands back."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hqsm.arrays import FloatArray
from hqsm.report.style import OKABE_ITO

METHOD_NAMES = {"hqsm": "hQSM", "r2star": "R2*"}
METHOD_STYLE = {"hqsm": {"color": OKABE_ITO[0], "marker": "o"}, "r2star": {"color": OKABE_ITO[1], "marker": "s"}}
"""A colour and a marker per method, so that they differ in grey too."""
LIC_BANDS_MG_G = (1.8, 3.2, 7.0, 15.0)
"""Upper end of normal, and the limits of rising risk: Olivieri and Brittenham, Blood 1997;89:739."""


def participants_of(visits: pd.DataFrame) -> pd.Series:
    """The participant of each visit of visits.tsv; a folder that is no visit is nobody's."""
    return visits.loc[visits["session_id"] != "", "participant_id"]


@dataclass(frozen=True, kw_only=True, eq=False)
class ReportData:
    """Everything that the report is made from.

    Attributes
    ----------
    tables
        Tables of the contract by name.
    findings, timeline, demographics
        What the records' checks found, and the rows of :mod:`hqsm.records.overview`.
    parameters
        The resolved configuration, one block per stage.
    versions
        Versions of the package and its libraries.
    """

    tables: Mapping[str, pd.DataFrame]
    findings: Sequence[Mapping[str, Any]] = ()
    timeline: Sequence[Mapping[str, Any]] = ()
    demographics: Sequence[Mapping[str, Any]] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def confidence(self) -> str:
        """Level of the statistics' intervals in words: ``95 %``."""
        return f"{100 * self.parameters['statistics']['confidence_level']:g} %"

    def included_intervals(self) -> pd.DataFrame:
        """The annual intervals of the primary analysis."""
        change = self.tables["annual_change"]
        return change[change["included"] == 1].reset_index(drop=True)


@dataclass(frozen=True, kw_only=True, eq=False)
class StudyFigure:
    """One figure: file name, heading, what it shows in a sentence or two, the picture and the numbers behind it."""

    name: str
    section: str
    title: str
    caption: str
    svg: bytes
    pdf: bytes
    data: pd.DataFrame

    def files(self) -> dict[str, bytes]:
        """Files of the figure by name below the report's folder."""
        text = self.data.to_csv(sep="\t", index=False, float_format="%.9g", na_rep="n/a").encode()
        return {f"figures/{self.name}.svg": self.svg, f"figures/{self.name}.pdf": self.pdf, f"figures/{self.name}.tsv": text}


def finish(figure: Figure, data: pd.DataFrame, *, name: str, section: str, title: str, caption: str) -> StudyFigure:
    """Save a figure and close it; equal content gives equal bytes."""
    svg, pdf = io.BytesIO(), io.BytesIO()
    figure.savefig(svg, format="svg", metadata={"Date": None})
    figure.savefig(pdf, format="pdf", metadata={"CreationDate": None})
    plt.close(figure)
    return StudyFigure(name=name, section=section, title=title, caption=caption, svg=svg.getvalue(), pdf=pdf.getvalue(), data=data)


def identity_line(ax: Axes, *values: FloatArray) -> None:
    """The line of equality over the range of the values."""
    both = np.concatenate([v[np.isfinite(v)] for v in values])
    low, high = min(0.0, float(both.min())), 1.05 * float(both.max())
    ax.plot([low, high], [low, high], ":", color="0.3", lw=1, label="equality")


def numbers(frame: pd.DataFrame, column: str) -> FloatArray:
    """A column as float64."""
    return frame[column].to_numpy(float)
