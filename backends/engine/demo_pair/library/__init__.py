"""Short Python functions written for this corpus; their source text is what the model learns."""
