"""Before and after an experiment: the command line, its checks, what is built, what is shown."""
