"""One version at work: load an artefact, transform, predict, decide, and route requests to versions.

Used by serving, evaluation and batch prediction alike, so that a version answers the same everywhere.
"""
