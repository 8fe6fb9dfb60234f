"""A Report as people read it: one list of sections, shown in a terminal, as Markdown or as one HTML file."""
