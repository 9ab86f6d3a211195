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
