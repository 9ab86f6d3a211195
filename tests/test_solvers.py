import numpy as np

from hqsm.solvers import conjugate_gradient


def test_conjugate_gradient_finds_the_closed_form_solution_with_and_without_preconditioner() -> None:
    rng = np.random.default_rng(0)
    a = rng.standard_normal((30, 30))
    matrix = a @ a.T + np.diag(np.linspace(1, 1000, 30))
    b = rng.standard_normal(30)
    expected = np.linalg.solve(matrix, b)
    plain = conjugate_gradient(lambda x: matrix @ x, b, tolerance=1e-10, max_iterations=500)
    scaled = conjugate_gradient(lambda x: matrix @ x, b, precondition=lambda r: r / np.diag(matrix), tolerance=1e-10, max_iterations=500)
    np.testing.assert_allclose(plain.x, expected, rtol=1e-6)
    np.testing.assert_allclose(scaled.x, expected, rtol=1e-6)
    assert scaled.converged
    assert scaled.n_iterations < plain.n_iterations


def test_an_iteration_that_did_not_arrive_says_so() -> None:
    matrix = np.diag(np.linspace(1, 1e6, 50))
    solution = conjugate_gradient(lambda x: matrix @ x, np.ones(50), tolerance=1e-12, max_iterations=3)
    assert not solution.converged
    assert solution.n_iterations == 3


def test_a_variance_needs_only_the_steps_that_still_add_to_it() -> None:
    """b'x grows from zero to b'A^-1 b; where ten steps add little, little is missing."""
    rng = np.random.default_rng(1)
    basis, _ = np.linalg.qr(rng.standard_normal((200, 200)))
    matrix = basis @ np.diag(np.geomspace(1, 1e3, 200)) @ basis.T
    b = rng.standard_normal(200)
    exact = float(b @ np.linalg.solve(matrix, b))
    values = [
        conjugate_gradient(lambda x: matrix @ x, b, tolerance=1e-9, energy_tolerance=share, max_iterations=2000)
        for share in (0.3, 0.03, 1e-6)
    ]
    found = [float(b @ solution.x) / exact for solution in values]
    assert all(solution.converged for solution in values)
    assert found == sorted(found)
    assert 0.9 < found[1] < 1
    assert abs(found[2] - 1) < 1e-4
    assert values[0].n_iterations < values[1].n_iterations < values[2].n_iterations


def test_a_variance_that_is_small_beside_another_needs_few_steps_for_the_sum_of_both() -> None:
    rng = np.random.default_rng(1)
    basis, _ = np.linalg.qr(rng.standard_normal((200, 200)))
    matrix = basis @ np.diag(np.geomspace(1, 1e3, 200)) @ basis.T
    b = rng.standard_normal(200)
    exact = float(b @ np.linalg.solve(matrix, b))
    alone, joined = (
        conjugate_gradient(lambda x: matrix @ x, b, tolerance=1e-9, energy_tolerance=0.03, energy_beside=beside, max_iterations=2000)
        for beside in (0.0, 10 * exact)
    )
    assert joined.n_iterations < alone.n_iterations
    assert (float(b @ joined.x) + 10 * exact) / (11 * exact) > 0.95


def test_a_solution_that_has_arrived_goes_on_for_the_steps_that_are_asked() -> None:
    rng = np.random.default_rng(4)
    half = rng.standard_normal((30, 30))
    matrix, b = half @ half.T + np.eye(30), rng.standard_normal(30)
    there = np.linalg.solve(matrix, b)
    near = there + 1e-3 * rng.standard_normal(30)
    at_once = conjugate_gradient(lambda x: matrix @ x, b, start=near, tolerance=1.0, max_iterations=100)
    later = conjugate_gradient(lambda x: matrix @ x, b, start=near, tolerance=1.0, min_iterations=25, max_iterations=100)
    assert (at_once.n_iterations, later.n_iterations) == (0, 25)
    assert np.linalg.norm(later.x - there) < 0.01 * np.linalg.norm(near - there)
