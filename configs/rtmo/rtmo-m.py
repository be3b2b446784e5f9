_base_ = 'mmpose::body_2d_keypoint/rtmo/body7/rtmo-m_16xb16-600e_body7-640x640.py'

custom_imports = dict(imports=['mmpose_batch'], allow_failed_imports=False)

inferencer = dict(
    type='BatchPose2DInferencer',
    weights='https://download.openmmlab.com/mmpose/v1/projects/'
    'rtmo/rtmo-m_16xb16-600e_body7-640x640-39e78cc4_20231211.pth',
)
