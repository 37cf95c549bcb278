"""How weights come to be, and how good they are."""
