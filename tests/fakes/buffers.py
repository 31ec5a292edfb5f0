"""The buffers that llama.cpp makes for a model and a context, as its own log gives them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from backends.engine.memory import Context

MIB = 1 << 20

# In a process of its own: makes the context and prints the buffers that llama.cpp logs, and RSS.
MEASURE = """
import ctypes, json, sys
import llama_cpp.llama_cpp as C
heard = []
@C.llama_log_callback
def hear(level, text, data):
    heard.append(text.decode("utf-8", "replace"))
C.llama_log_set(hear, ctypes.c_void_p(0))
C.llama_backend_init()
path, o = sys.argv[1], json.loads(sys.argv[2])
types = {"f16": C.GGML_TYPE_F16, "q8_0": C.GGML_TYPE_Q8_0, "q4_0": C.GGML_TYPE_Q4_0}
model = C.llama_model_load_from_file(path.encode(), C.llama_model_default_params())
params = C.llama_context_default_params()
params.n_ctx, params.n_seq_max, params.n_outputs_max = o["cells"], o["sequences"], o["outputs"]
params.n_batch = params.n_ubatch = o["batch"]
params.kv_unified, params.swa_full = o["unified"], o["window_full"]
params.type_k, params.type_v = types[o["kv_key"]], types[o["kv_value"]]
params.flash_attn_type = int(o["flash_attention"])
params.offload_kqv = params.op_offload = False
params.n_threads = params.n_threads_batch = 1
assert C.llama_init_from_model(model, params)
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps({"log": "".join(heard), "rss": int(status["VmRSS"].split()[0]) * 1024}))
"""

CONTEXTS = {
    "one": Context(cells=2048),
    "four unified": Context(cells=4096, sequences=4, outputs=36),
    "four split": Context(cells=4096, sequences=4, unified=False),
    "small windows": Context(cells=4096, batch=256, window_full=False),
    "q8_0": Context(cells=1000, kv_key="q8_0", kv_value="q8_0"),
    "no flash attention": Context(cells=2048, flash_attention=False),
}


def logged(path: Path, context: Context) -> dict[str, float]:
    """MiB of what llama.cpp says it made for this context: kv, recurrent, compute; and rss."""
    ran = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path), json.dumps(asdict(context))],
        capture_output=True,
        text=True,
        check=True,
    )
    said = json.loads(ran.stdout)
    found = {"rss": said["rss"] / MIB}
    for name, word in (("kv", "KV"), ("recurrent", "RS"), ("compute", "compute")):
        sizes = re.findall(rf"{word} buffer size =\s+([\d.]+) MiB", said["log"])
        found[name] = sum(map(float, sizes))
    return found
