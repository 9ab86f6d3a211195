"""Statistics of the study: annual change, regression, comparison of methods, agreement, reliability, effects."""
