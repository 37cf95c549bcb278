"""Imports all that runs do, some of which they ask for late; `sweeping.warm` preloads it, and says what that saves."""

import logging

logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # says that there is no CUDA compiler

import matplotlib.backends.backend_agg  # noqa: E402, F401
import sklearn.datasets  # noqa: E402, F401
import timm  # noqa: E402, F401
import torch._dynamo  # noqa: E402, F401  (the first optimizer imports it)
import torch.utils.benchmark  # noqa: E402, F401
import torchvision  # noqa: E402, F401

import runners.command.build  # noqa: E402, F401
import runners.command.cli  # noqa: E402, F401
import runners.one_shot  # noqa: E402, F401
