"""What has become of runs: the state of a sweep, its tables, and what this machine can do."""
