"""Rules over scores: the filters that go."""
