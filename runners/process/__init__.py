"""The ground of every process of ours: errors and exit codes, signals, streams, secrets, arguments by name."""
