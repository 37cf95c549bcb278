"""What every process of ours stands on: errors and exit codes, signals, streams, secrets."""
