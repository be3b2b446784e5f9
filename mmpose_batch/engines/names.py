"""Names of engines and precisions, for code that needs only these: this module imports nothing."""

AUTO = 'auto'
PRECISIONS = ('fp32', 'fp16', 'bf16', 'int8', AUTO)
# Engines of this package, for help texts; `registry.specs` also has third-party engines.
OWN_ENGINES = ('torch', 'torch-compile', 'onnxruntime', 'openvino')
