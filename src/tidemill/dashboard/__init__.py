"""The web page: one project's stores as people look at them, and the verbs of the command line as buttons."""
