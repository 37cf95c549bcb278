"""Importing this imports all that runs do, some of which they ask for late, and compiles loops; no GPU is touched."""

import logging

logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # says that there is no CUDA compiler

import matplotlib.backends.backend_agg  # noqa: E402, F401
import sklearn.datasets  # noqa: E402, F401
import timm  # noqa: E402, F401
import torch  # noqa: E402
import torch._dynamo  # noqa: E402, F401  (the first optimizer imports it)
import torch.utils.benchmark  # noqa: E402, F401
import torchvision  # noqa: E402, F401

import runners.command.build  # noqa: E402, F401
import runners.command.cli  # noqa: E402, F401
import runners.command.summary  # noqa: E402, F401
import runners.one_shot  # noqa: E402, F401
from runners.training.fused.kernels import compile_all  # noqa: E402
from runners.training.precision import has_bf16  # noqa: E402

if torch.get_num_threads() == 1 and has_bf16(torch.device("cpu")):
    compile_all()
