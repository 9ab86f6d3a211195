"""Edge: blinded reading. Packs of cases under random codes, the check of what came back, the lock (docs/masks.md)."""
