"""Fat-water separation with joint R2* and field map."""
