"""Navigator-gated echoes: position of every repetition, gate, combination as complex numbers. One method a module.

Import the modules, not this package: a stage that needs only the noise level must not depend on the gate.
"""
