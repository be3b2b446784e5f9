#!/usr/bin/env bash
# Measure the tables of docs/benchmarks.md and docs/accuracy.md again and write them there:
#
#   tools/benchmark_docs.sh FOLDER [NAME ...]
#
# NAME is the name of a table, which is in the document between <!-- NAME --> and
# <!-- end of NAME -->. Without names, all tables are measured, which takes two and a half hours on
# 2 cores; the machine should do nothing else meanwhile. The results of the tools are stored in
# FOLDER/out/NAME. FOLDER must hold the inputs that cannot be generated:
#
#   photos/             images
#   rtmo-s.pth          weights of MMPose's RTMO-s
#   rtmpose-s.pth       weights of rtmpose-s_8xb256-420e_coco-256x192
#   rtmdet-nano.py/.pth config and weights of a person detector
#
# All engines, nncf and rtmlib must be installed. A row that cannot run on this machine, such as bf16
# on many processors, shows the reason. Some tables bind their processes to cores 0 and 1. The other
# images are generated in FOLDER, as are the random weights of a whole-body model. The environment
# variables ROUNDS (default 5; 3 for starts) and DOCS (folder of the two documents) change the defaults.
set -euo pipefail

source "$(dirname "$0")/common.sh"
expect_folder "$@"
tools=$(cd "$(dirname "$0")" && pwd)
docs=$(cd "${DOCS:-$tools/../docs}" && pwd)
PATH=$(cd "$(dirname "$(command -v python)")" && pwd):$PATH
cd "$1"
shift
if [[ -e tools && ! -L tools ]]; then
  echo "benchmark_docs: $PWD already contains a folder tools; choose another folder" >&2
  exit 2
fi
ln -sfn "$tools" tools # so that the recorded command works in the project
mkdir -p out

rounds=(--max-rounds "${ROUNDS:-5}")
shared=(photos/ --pose2d rtmo-s --pose2d-weights rtmo-s.pth)
crops=(--pose2d rtmpose-s_8xb256-420e_coco-256x192 --pose2d-weights rtmpose-s.pth)
detector=(--det-model rtmdet-nano.py --det-weights rtmdet-nano.pth --det-cat-ids 0)
pair=(photos/ "${crops[@]}" "${detector[@]}")
bf16=(--engine openvino --precision bf16)
both=(--engine openvino --precision fp32 bf16)
all=(--engine torch openvino --precision fp32 bf16)

throughput() { tolerate tools/benchmark_throughput.py "$@" "${rounds[@]}" --out-dir "out/$name"; }
latency() { tools/benchmark_latency.py "$@" --out-dir "out/$name"; }
overhead() { tools/benchmark_overhead.py "$@" --out-dir "out/$name"; }
start() { tolerate tools/benchmark_start.py "$@" --rounds "${ROUNDS:-3}" --out-dir "out/$name"; }
parity() { tolerate tools/compare_engines.py "$@" --out-dir "out/$name"; }

held_out() {
  [[ -e val/annotations.json ]] || tools/make_scenes.py val --count 500 --seed 2
}
whole_body_weights() {
  [[ -e rtmw-m-random.pth ]] || python -W ignore - <<'PYTHON'
import torch
import mmpose_batch
from mmpose.apis import init_model
from mmpose_batch.models import load_config

torch.manual_seed(0)
model = init_model(load_config('rtmw-m_8xb1024-270e_cocktail14-256x192')[0], None, 'cpu')
for layer in (model.head.cls_x, model.head.cls_y):  # otherwise the meaningless scores would be huge
    layer.weight.data.mul_(0.02)
meta = {'dataset_meta': model.dataset_meta}
torch.save({'state_dict': model.state_dict(), 'meta': meta}, 'rtmw-m-random.part')
PYTHON
  [[ ! -e rtmw-m-random.part ]] || mv rtmw-m-random.part rtmw-m-random.pth
}

measure() {
  local engines=(--engine torch openvino onnxruntime --precision fp32 bf16 int8)
  local evaluated=(val/ --ann-file val/annotations.json)
  case $name in
    rtmo) throughput "${shared[@]}" "${all[@]}" ;;
    rtmo-rect) throughput "${shared[@]}" --rect "${bf16[@]}" ;;
    pair) throughput "${pair[@]}" "${all[@]}" ;;
    pair-no-flip) throughput "${pair[@]}" --no-flip-test "${both[@]}" ;;
    rtmlib) throughput "${pair[@]}" --given-boxes --no-flip-test --cpu-affinity 0-1 "${both[@]}" \
      --against upstream rtmlib ;;
    int8) throughput --scenes 64 --pose2d demo-rtmo --engine openvino --precision bf16 int8 ;;
    int8-pair) throughput --scenes 64 --pose2d demo-rtmpose --engine openvino --precision bf16 int8 ;;
    wholebody)
      whole_body_weights
      throughput photos/ --pose2d rtmw-m_8xb1024-270e_cocktail14-256x192 \
        --pose2d-weights rtmw-m-random.pth "${detector[@]}" --images 16 "${both[@]}" int8 ;;
    one-image)
      rm -rf one && mkdir one
      cp "$(printf '%s\n' photos/*.jpg | head -n 1)" one/
      latency one/ "${crops[@]}" --det-model whole_image --no-flip-test "${bf16[@]}" \
        --cpu-affinity 0 --against upstream ;;
    latency)
      held_out
      latency val/ --pose2d demo-rtmpose "${bf16[@]}" --cpu-affinity 0 --against upstream ;;
    rate)
      held_out
      latency val/ --pose2d demo-rtmo "${bf16[@]}" --rate 30 --against upstream ;;
    crops) throughput "${pair[@]}" --given-boxes --no-flip-test --images 32 --cpu-affinity 0-1 \
      --engine onnxruntime openvino --precision fp32 \
      --against upstream crop-by-crop padded-batches thread-pool ;;
    many-crops) throughput --scenes 16 --persons 12 --pose2d demo-rtmpose --given-boxes --no-flip-test \
      --engine onnxruntime openvino --precision fp32 --against padded-batches crop-by-crop ;;
    workers) throughput --scenes 64 --pose2d demo-rtmpose "${bf16[@]}" --num-threads 1 2 \
      --num-workers 0 1 2 ;;
    sweep) throughput --scenes 128 --pose2d demo-rtmo --engine torch openvino --precision bf16 \
      --batch-size 1 4 16 32 ;;
    overhead) overhead "${crops[@]}" ;;
    overhead-one) overhead "${crops[@]}" --persons 1 ;;
    overhead-wholebody) overhead --pose2d rtmpose-m_8xb64-270e_coco-wholebody-256x192 \
      --pose2d-weights none ;;
    start) start "${shared[@]}" --images 16 --engine openvino auto --precision fp32 bf16 ;;
    start-demo)
      held_out
      start val/ --pose2d demo-rtmo --engine openvino auto --precision fp32 int8 ;;
    parity)
      held_out
      parity "${evaluated[@]}" --pose2d demo-rtmpose --engine torch torch-compile openvino onnxruntime \
        --precision fp32 bf16 int8 --no-flip-test ;;
    parity-rtmo)
      held_out
      parity "${evaluated[@]}" --pose2d demo-rtmo "${engines[@]}" --rect ;;
    parity-photos) parity "${shared[@]}" "${engines[@]}" ;;
    parity-photos-pair) parity "${pair[@]}" "${engines[@]}" ;;
    *)
      echo "benchmark_docs: no table is named $name" >&2
      exit 2
      ;;
  esac
}

names=("$@")
if [[ $# == 0 ]]; then
  mapfile -t names < <(sed -n 's/^<!-- \([a-z0-9-]*\) -->$/\1/p' "$docs"/benchmarks.md "$docs"/accuracy.md)
fi
place() { grep -lFx -- "<!-- $1 -->" "$docs"/benchmarks.md "$docs"/accuracy.md | head -n 1; }
for name in "${names[@]}"; do
  [[ -n $(place "$name") ]] || {
    echo "benchmark_docs: no table is named $name" >&2
    exit 2
  }
done
for name in "${names[@]}"; do
  document=$(place "$name")
  echo "== $name"
  measure
  tools/write_benchmarks.py "$document" "$name=out/$name"
done
