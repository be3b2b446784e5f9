_base_ = 'mmpose::body_2d_keypoint/rtmpose/body8/rtmpose-l_8xb256-420e_body8-384x288.py'

custom_imports = dict(imports=['mmpose_batch'], allow_failed_imports=False)

inferencer = dict(
    type='BatchPose2DInferencer',
    weights='https://download.openmmlab.com/mmpose/v1/projects/'
    'rtmposev1/rtmpose-l_simcc-body7_pt-body7_420e-384x288-3f5a1437_20230504.pth',
)
