"""llama.cpp's C API as the worker and its helper need it: typed, numpy-backed, nothing more.

Only those two processes and the offline tools import this package: several misuses of the API end
the process (an over-full batch, a row sampled without logits), so callers stay inside the limits
that `Context` states, and `Context` checks them once more before every call.
"""
