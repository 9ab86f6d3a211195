"""Digital reference objects and the simulated cohort: truth for tests, demonstrations and installation checks.

Nothing here imports the code that estimates: a simulator that shared code with the inversion could not object to it.
"""
