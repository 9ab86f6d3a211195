"""Clinical records: reading, findings, annual intervals, exposure to iron and chelator."""
