"""Many runs at once: which jobs a sweep has, and the processes that do them."""
