"""Builds mmpose-batch; the settings of the tools are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_namespace_packages, find_packages, setup

ROOT = Path(__file__).resolve().parent


def read_version() -> str:
    """Reads the version as text: importing the package needs mmpose, which a build may lack."""
    text = (ROOT / 'mmpose_batch' / 'version.py').read_text(encoding='utf-8')
    match = re.search(r"^__version__ = '([^']+)'$", text, re.MULTILINE)
    if match is None:
        raise RuntimeError("mmpose_batch/version.py: expected a line like __version__ = '1.2.3'")
    return match[1]


# tools/benchmarking is installed as mmpose_batch/benchmarking, no part of inference.
# configs/ is installed as mmpose_batch/configs: at the top of site-packages it would hide the
# configs of other OpenMMLab packages from mmengine, which looks for `site-packages/configs` first.
CONFIGS, BENCHMARKING = 'mmpose_batch.configs', 'mmpose_batch.benchmarking'
packages = find_packages(str(ROOT), include=['mmpose_batch', 'mmpose_batch.*'])
config_packages = [
    f'{CONFIGS}.{name}'
    for name in find_namespace_packages(str(ROOT / 'configs'), exclude=['*__pycache__*'])
]

setup(
    name='mmpose-batch',
    version=read_version(),
    description='Fast MMPose inference over many images: a batched, registered inferencer',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    license_files=['LICENSE'],
    keywords='computer vision, pose estimation, inference, mmpose',
    classifiers=[
        'Development Status :: 4 - Beta',
        'Operating System :: POSIX :: Linux',
        'Programming Language :: Python :: 3',
        'Programming Language :: Python :: 3.11',
        'Topic :: Scientific/Engineering :: Image Recognition',
    ],
    packages=[*packages, BENCHMARKING, CONFIGS, *config_packages],
    package_dir={BENCHMARKING: 'tools/benchmarking', CONFIGS: 'configs'},
    package_data={f'{CONFIGS}.demo': ['*.pth']},
    entry_points={'console_scripts': ['mmpose-batch = mmpose_batch.cli:main']},
    python_requires='>=3.11',  # what is tested
    # Neither torch nor mmpose, mmcv, mmdet, numpy or OpenCV: pip would replace the builds of an
    # MMPose environment that works. The first use says which of them is missing.
    install_requires=['filelock', 'loky', 'orjson', 'rich', 'wrapt'],
    extras_require={
        'coco': ['xtcocotools'],
        'openvino': ['openvino>=2026.4', 'onnx'],
        'onnxruntime': ['onnxruntime', 'onnx'],
        'heif': ['pillow-heif'],
        'video': ['av>=18'],
        'parquet': ['pyarrow>=26'],
        'int8': ['nncf>=3.4', 'openvino>=2026.4', 'onnx'],
        'ray': ['ray[data]>=2.60,<2.64', 'pyarrow'],
        'benchmark': ['scipy', 'matplotlib'],  # with nvidia-ml-py: how busy a GPU is
        'docs': ['zensical', 'mkdocstrings[python]'],
        'dev': ['pytest', 'pytest-xdist', 'ruff', 'codespell'],
    },
)
