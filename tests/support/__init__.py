"""What the tests share: factories, tiny models, and upstream MMPose to compare with."""

# Before anything of MMPose: it provides torchvision's one name where that is missing.
import mmpose_batch  # noqa: F401
