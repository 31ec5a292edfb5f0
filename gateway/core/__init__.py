"""The five nouns and the error tree: standard library only, no I/O, imported by everyone."""
