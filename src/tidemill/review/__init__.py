"""JUDGE: a candidate against the live version and a baseline, on held-out labelled rows."""
