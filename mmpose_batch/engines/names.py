"""Names of engines and precisions, for those who need no more: nothing is imported."""

AUTO = 'auto'
PRECISIONS = ('fp32', 'fp16', 'bf16', 'int8', AUTO)
# Engines of this package, for texts; `registry.specs` also has those that others register.
OWN_ENGINES = ('torch', 'torch-compile', 'onnxruntime', 'openvino')
