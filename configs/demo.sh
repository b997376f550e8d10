#!/bin/sh
# What `make demo` shows: a real quantised file, the job that recovers it, and the result.
set -eu
sample=configs/sample/smollm2-135m-layer0.gguf
result=out/quickstart/smollm2-135m-layer0.safetensors
say() { printf '\n\033[1m$ %s\033[0m\n' "$*"; "$@"; }

say amn inspect "$sample"
say amn run configs/quickstart.yaml
say amn inspect "$result"
say amn verify "$result"
printf '\n\033[1m$ python  # the safetensors library reads it\033[0m\n'
python - "$result" <<'PYTHON'
import sys
from safetensors import safe_open

with safe_open(sys.argv[1], framework="numpy") as file:
    names = list(file.keys())
    print(f"{len(names)} tensors, metadata {file.metadata()}")
    for name in names[:4]:
        view = file.get_slice(name)
        print(f"  {name:26} {view.get_dtype():5} {view.get_shape()}")
PYTHON
