"""Which filters go: rules over scores."""
