"""DECIDE: the six stages, pure. Nothing here reads a clock, a file or a generator of its own."""
