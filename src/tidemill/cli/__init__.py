"""The command line: one file per command. Settings of a deployment are read here and nowhere else."""
