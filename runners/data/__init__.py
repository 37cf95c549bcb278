"""Data sets, resident on the device or streamed from files."""
