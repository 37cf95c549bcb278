"""The networks of the papers: plain modules from factories with named arguments."""
