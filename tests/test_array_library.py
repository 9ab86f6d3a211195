"""What iterates runs unchanged on another library's arrays, here those of a strict reading of the array API standard.

They refuse whatever is not in the standard, and to be mixed with numpy's.
"""

from __future__ import annotations

import array_api_strict as strict
import numpy as np
import pytest

from conftest import make_grid
from hqsm.array_library import inner_product, to_numpy
from hqsm.arrays import FloatArray
from hqsm.dipole import DipoleOperator
from hqsm.fourier import PaddedShape
from hqsm.inversion import total_field
from hqsm.inversion.edges import diffusivity, divergence, gradient
from hqsm.inversion.reduced import Preconditioner, Reduced
from hqsm.inversion.source_model import SourceModel
from hqsm.solvers import conjugate_gradient
from test_total_field_laws import LARGE_MM, SMALL_MM, problem

pytestmark = pytest.mark.filterwarnings("ignore:.*array API standard.*:UserWarning")


def test_the_adjoint_of_the_forward_model_is_its_adjoint_there_too() -> None:
    total, noise, prior = problem(LARGE_MM)
    model = SourceModel(total, noise, prior)
    rng = np.random.default_rng(3)
    unknowns = rng.standard_normal(model.n_unknowns).astype(np.float32)
    field = rng.standard_normal(total.grid.shape).astype(np.float32)
    there = model.to(strict.asarray)
    forward, back = there._field(strict.asarray(unknowns)), there._adjoint(strict.asarray(field))
    assert inner_product(forward, strict.asarray(field)) == pytest.approx(inner_product(strict.asarray(unknowns), back), rel=1e-4)
    np.testing.assert_allclose(to_numpy(forward), model._field(unknowns), atol=1e-5)
    np.testing.assert_allclose(to_numpy(back), model._adjoint(field), atol=1e-4)


@pytest.mark.parametrize("voxel_mm", [LARGE_MM, SMALL_MM])
def test_the_posterior_found_there_is_that_found_by_numpy(monkeypatch: pytest.MonkeyPatch, voxel_mm: float) -> None:
    """Levels, voxels, lesions, outliers, the images' own voxels where they are small, and the standard error: all iterations."""
    given, libraries = problem(voxel_mm), list[str]()

    def normal(self: SourceModel, unknowns: FloatArray) -> FloatArray:
        applied = as_it_is(self, unknowns)
        libraries.append(type(applied).__module__.split(".")[0])
        return applied

    as_it_is = SourceModel.normal
    monkeypatch.setattr(SourceModel, "normal", normal)
    here = total_field.Inversion(*given).posterior(tolerance=1e-6, max_iterations=400)
    by_numpy = len(libraries)
    there = total_field.Inversion(*given, library=strict.asarray).posterior(tolerance=1e-6, max_iterations=400)
    assert set(libraries[:by_numpy]) == {"numpy"}
    assert set(libraries[by_numpy:]) == {"array_api_strict"}
    assert there.solution.converged
    # as far as single precision tells it: what changes the field by its rounding moves voxels at the surface by 0.001 to 0.005 ppm
    np.testing.assert_allclose(there.chi_ppm, here.chi_ppm, rtol=0, atol=0.005)
    iron = given[2].organs[0].share == 1
    np.testing.assert_allclose(there.chi_ppm[iron].mean(), here.chi_ppm[iron].mean(), rtol=0, atol=1e-3)
    weights = given[2].organs[0].share / given[2].organs[0].share.sum()
    assert there.standard_deviation_ppm(weights) == pytest.approx(here.standard_deviation_ppm(weights), rel=1e-3)


def test_the_preconditioner_leaves_what_the_reduced_problem_has_not_as_it_is() -> None:
    total, noise, prior = problem(LARGE_MM)
    model = SourceModel(total, noise, prior)
    reduced = Reduced(model)
    residual = np.random.default_rng(4).standard_normal(model.n_unknowns).astype(np.float32)
    precondition = Preconditioner(model, reduced)
    expected = residual.copy()
    expected[: model.n_voxels] *= precondition._diagonal
    places = model.n_voxels + reduced.places
    expected[places] = reduced.inverse.astype(np.float32) @ residual[places]
    assert len(places) < model.n_unknowns - model.n_voxels
    np.testing.assert_array_equal(precondition(residual), expected)
    np.testing.assert_allclose(to_numpy(precondition.to(strict.asarray)(strict.asarray(residual))), expected, atol=1e-5)


def test_what_the_published_iterations_apply_runs_there() -> None:
    """The normal equations of TFI and MEDI, edges and all, and of PDF but for its masks."""
    grid = make_grid("oblique", (16, 18, 10))
    padded = PaddedShape.around(grid.shape, grid.voxel_size_mm, 12.0)
    dipole = DipoleOperator(padded.outer, grid.voxel_size_mm, grid.b0_direction)
    volume = np.random.default_rng(5).standard_normal(grid.shape).astype(np.float32)

    def found(dipole: DipoleOperator, volume: FloatArray) -> FloatArray:
        field = padded.pad(volume)
        conducts = diffusivity(field, field * 0 + 1, grid.voxel_size_mm, 1e-3)

        def normal(x: FloatArray) -> FloatArray:
            return divergence(conducts * gradient(x, grid.voxel_size_mm), grid.voxel_size_mm) + dipole(dipole(x))

        return padded.crop(conjugate_gradient(normal, dipole(field), tolerance=1e-3, max_iterations=30).x)

    here, there = found(dipole, volume), found(dipole.to(strict.asarray), strict.asarray(volume))
    np.testing.assert_allclose(to_numpy(there), here, atol=1e-4 * float(np.abs(here).max()))
