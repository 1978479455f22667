#!/bin/sh
# Install the locked libraries of an image in /opt/venv, adding to what lies there; keep what a step needs when it runs.
# Usage, inside a build: sh /src/image-venv.sh data|train     (beside this file: lock.txt and the set's own lock)
set -eu
set=$1
here=$(dirname "$0")
python3.11 -m venv /opt/tools
/opt/tools/bin/python -m pip install --quiet --no-cache-dir "$(grep -oE '^uv==[^ ]+' "$here/lock.txt")"
[ -d /opt/venv ] || /opt/tools/bin/uv venv --quiet --python python3.11 /opt/venv
UV_LINK_MODE=copy UV_NO_CACHE=1 /opt/tools/bin/uv pip install --quiet --require-hashes --python /opt/venv/bin/python \
  --requirement "$here/$set.txt"
rm -rf /opt/tools
cd /opt/venv/lib/python3.11/site-packages

if [ "$set" = data ]; then
  # Tests, headers and sources of compiled modules. h5py and jinja2 read modules of their own with such names.
  find . -type d -name tests ! -path './h5py/*' -prune -exec rm -rf {} +
  find . -type f \( -name '*.h' -o -name '*.hpp' -o -name '*.c' -o -name '*.cpp' -o -name '*.a' -o -name '*.pyx' \
    -o -name '*.pxd' -o -name '*.pxi' -o -name '*.pyi' \) -delete
  # Arrow: we read and write tables on disk; clients of Flight and S3 are loaded on demand only,
  # and a wheel holds each name of a library as a copy.
  rm -f pyarrow/libarrow_flight.so.* pyarrow/_flight.*.so \
    pyarrow/libarrow_s3.so.* pyarrow/_s3fs.*.so pyarrow/libarrow_python.so pyarrow/libarrow_python.so.*.*
  # botocore: of every AWS service the description, of which DVC's S3 remote uses these.
  find botocore/data -mindepth 1 -maxdepth 1 -type d ! -name s3 ! -name 'sso*' ! -name sts ! -name signin -exec rm -rf {} +
fi

# Byte code doubles the size of sources and makes a start twice as fast: keep it for what the steps import, not for all.
common="import av, datasketch, great_expectations, h5py, jinja2, orjson, pandas, pydantic, pyarrow.parquet, rich, yaml
import dvc.repo, dvc_s3, dvc_gs, dvc_ssh, dvc_webdav, kfp.dsl.executor_main"
torch="import torch, torchvision, transformers, peft, safetensors.torch, onnx, onnxscript, onnxruntime, torch.onnx
from swift import sft_main
from transformers import AutoProcessor, AutoTokenizer, InternVLForConditionalGeneration, Trainer"
export _KFP_RUNTIME=true HOME=/tmp
/opt/venv/bin/python -c "$common"
[ "$set" = data ] || /opt/venv/bin/python -c "$torch" >/dev/null
