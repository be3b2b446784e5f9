#!/usr/bin/env bash
# Measure the speed and accuracy of engines, precisions and batch sizes on this machine:
#
#   tools/benchmark_engines.sh OUT_DIR [OPTIONS of tools/benchmark_throughput.py, such as --max-rounds 5]
#
# With an NVIDIA GPU: eager PyTorch and torch.compile in fp32 and fp16, RTMO-l and RTMPose-m, whose
# weights are downloaded from MMPose's model zoo, with batch sizes from 1 to 256. Without a GPU: PyTorch,
# OpenVINO and ONNX Runtime on the CPU, the demo models, with batch sizes 1, 4 and 16. All images are
# synthetic. Each result is a folder in OUT_DIR:
#
#   parity-MODEL       pixels, score and AP of each engine and precision, demo models
#   one-stage-BATCH    images/s, persons/s and memory, compared with upstream MMPose
#   top-down-BATCH     the same
#
# With nvidia-ml-py installed, the memory column also shows the utilisation of the GPU.
# tools/write_benchmarks.py inserts results into a document. The environment variables SCENES (default
# 500, for parity), IMAGES (default 256, images per round) and SIZES (batch sizes) change the extent.
set -euo pipefail

source "$(dirname "$0")/common.sh"
expect_folder "$@"
out=$1
shift
tools=$(dirname "$0")
mkdir -p "$out"

cuda=$(python -c 'import torch; print(int(torch.cuda.is_available()))')
if [[ $cuda == 1 ]]; then
  engines=(torch torch-compile) precisions=(fp32 fp16) sizes=${SIZES:-1 4 16 64 256}
else
  engines=(torch openvino onnxruntime) precisions=(fp32 int8) sizes=${SIZES:-1 4 16}
  bf16=$(python -W ignore -c 'from mmpose_batch.hardware import cpu_has_bf16 as f; print(int(f()))')
  [[ $bf16 == 1 ]] && precisions+=(bf16)
fi

"$tools/make_scenes.py" "$out/scenes" --count "${SCENES:-500}" --seed 2
annotations=$out/scenes/annotations.json
parity() {
  tolerate "$tools/compare_engines.py" "$out/scenes" --ann-file "$annotations" --pose2d "$@" \
    --engine "${engines[@]}" --precision "${precisions[@]}" --out-dir "$out/parity-$1"
}
parity demo-rtmo --rect
parity demo-rtmpose --no-flip-test

# All rows of a run are in memory, so each size has its own run.
measure() {
  local name=$1 size
  shift
  for size in $sizes; do
    tolerate "$tools/benchmark_throughput.py" "$out/scenes" --images "${IMAGES:-256}" \
      --engine "${engines[@]}" --precision "${precisions[@]}" --batch-size "$size" "$@" \
      --out-dir "$out/$name-$size"
  done
}
if [[ $cuda == 1 ]]; then
  measure one-stage --pose2d rtmo-l "$@"
  measure top-down --pose2d rtmpose-m "$@"
else
  measure one-stage --pose2d demo-rtmo "$@"
  measure top-down --pose2d demo-rtmpose "$@"
fi
