"""MAKE: from labelled rows to a stored artefact, in a process of its own that may fail, hang or be killed."""
