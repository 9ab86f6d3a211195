"""How a hospital's DICOM export becomes a blind study folder: the allow-list, the keys, the filing."""
