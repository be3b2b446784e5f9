_base_ = 'mmpose::body_2d_keypoint/rtmo/body7/rtmo-s_8xb32-600e_body7-640x640.py'

custom_imports = dict(imports=['mmpose_batch'], allow_failed_imports=False)

inferencer = dict(
    type='BatchPose2DInferencer',
    weights='https://download.openmmlab.com/mmpose/v1/projects/'
    'rtmo/rtmo-s_8xb32-600e_body7-640x640-dac2bf74_20231211.pth',
)
