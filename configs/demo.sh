#!/bin/sh
# What `make demo` shows: a real quantised file, the job that recovers it, and the result.
set -eu
sample=configs/sample/smollm2-135m-layer0.gguf
result=out/quickstart/smollm2-135m-layer0.safetensors
bold='' plain=''
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ] && [ "${TERM:-dumb}" != dumb ]; then
    bold=$(printf '\033[1m') plain=$(printf '\033[0m')
fi
show() { printf '\n%s$ %s%s\n' "$bold" "$*" "$plain"; }
say() { show "$@"; "$@"; }

say amn inspect "$sample"
say amn run configs/quickstart.yaml
say amn inspect "$result"
say amn verify "$result"
show 'python  # the safetensors library reads it'
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
