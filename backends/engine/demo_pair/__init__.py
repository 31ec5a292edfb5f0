"""Training of the bundled draft and target: offline only, never imported at run time."""
