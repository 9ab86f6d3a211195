"""From field to susceptibility: one method a file."""
