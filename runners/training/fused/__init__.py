"""BatchNorm, the sum with a shortcut and ReLU as one operation, for training on a CPU in bf16."""
