"""For those who test a project or a stage of their own: fakes, checks and simulated traffic. Public."""
