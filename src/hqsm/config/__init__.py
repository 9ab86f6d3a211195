"""Parameters of every stage, each declared once.

One module per stage, so that a change of one stage's parameters changes the code digest of that stage alone.
pydantic is imported nowhere else in the package.
"""
