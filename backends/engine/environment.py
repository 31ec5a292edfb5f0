"""What a child process may see of our environment: what running takes, and nothing that is ours.

An allow-list, since a deny-list of secrets is never complete: provider keys, cloud credentials,
database URLs and tokens have names that nobody here has thought of. A worker reads files of unknown
origin with C code; what it does not have, it cannot give away.
"""

from __future__ import annotations

from collections.abc import Mapping

_EXACT = frozenset(
    {
        # finding programs, files and libraries
        "PATH", "HOME", "TMPDIR", "TEMP", "TMP", "VIRTUAL_ENV", "CONDA_PREFIX",
        "LLAMA_CPP_LIB_PATH", "LD_LIBRARY_PATH", "LD_PRELOAD", "DYLD_LIBRARY_PATH",
        "DYLD_FALLBACK_LIBRARY_PATH",
        # language and time
        "LANG", "LANGUAGE", "TZ",
        # the interpreter; by name, since not all that begins with PYTHON is its own
        "PYTHONHOME", "PYTHONPATH", "PYTHONUSERBASE", "PYTHONNOUSERSITE", "PYTHONUTF8",
        "PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX", "PYTHONHASHSEED", "PYTHONWARNINGS",
        "PYTHONMALLOC", "PYTHONFAULTHANDLER",
        # memory allocation
        "MALLOC_ARENA_MAX", "GLIBC_TUNABLES",
    }
)  # fmt: skip
_PREFIXES = (
    "LC_", "OMP_", "GOMP_", "KMP_", "OPENBLAS_", "MKL_", "GGML_",
    "CUDA_", "NVIDIA_", "HIP_", "HSA_", "ROCR_", "ROCM_", "VK_", "MTL_",
)  # fmt: skip
"""Families of settings for computing; no credential has such a name."""


def plain(environment: Mapping[str, str]) -> dict[str, str]:
    """The part of an environment that a child gets."""
    return {
        name: value
        for name, value in environment.items()
        if name in _EXACT or name.startswith(_PREFIXES)
    }
