"""Quality and cost of networks: accuracy, parameters, multiply-adds, memory, time."""
