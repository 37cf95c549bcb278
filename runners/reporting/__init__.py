"""What is told about runs after, between and before them: reports, states, and whether this place is fit for them."""
