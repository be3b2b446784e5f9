_base_ = 'mmpose::body_2d_keypoint/rtmo/body7/rtmo-t_8xb32-600e_body7-416x416.py'

custom_imports = dict(imports=['mmpose_batch'], allow_failed_imports=False)

inferencer = dict(
    type='BatchPose2DInferencer',
    weights='https://download.openmmlab.com/mmpose/v1/projects/'
    'rtmo/rtmo-t_8xb32-600e_body7-416x416-f48f75cb_20231219.pth',
)
