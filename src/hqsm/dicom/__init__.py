"""Edge: raw DICOM of every vendor, read right or refused in plain words."""
