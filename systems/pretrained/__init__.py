"""Trained systems that come with the package, `phlogiston.load("drmm/poses")`: read-only, checked by checksum."""
