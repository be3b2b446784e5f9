_base_ = 'mmpose::body_2d_keypoint/rtmpose/body8/rtmpose-m_8xb256-420e_body8-256x192.py'

custom_imports = dict(imports=['mmpose_batch'], allow_failed_imports=False)

inferencer = dict(
    type='BatchPose2DInferencer',
    weights='https://download.openmmlab.com/mmpose/v1/projects/'
    'rtmposev1/rtmpose-m_simcc-body7_pt-body7_420e-256x192-e48f03d0_20230504.pth',
)
