"""Fat-free R2* of magnitude data: one estimator a file, selected by name."""
