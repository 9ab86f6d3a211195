"""Removal of the field whose sources lie outside the body: one method a file."""
