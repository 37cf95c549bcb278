"""Storage of what must not be lost: keys, the store, the run folder, provenance."""
