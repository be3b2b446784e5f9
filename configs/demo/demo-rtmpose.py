# RTMPose's head on a small ResNet, 192x112, trained on synthetic scenes.
_base_ = './_scenes.py'

default_scope = 'mmpose'
visualizer = dict(type='PoseLocalVisualizer', vis_backends=[dict(type='LocalVisBackend')])

inferencer = dict(
    type='BatchPose2DInferencer',
    weights='{{ fileDirname }}/demo-rtmpose.pth',
    det_model='{{ fileDirname }}/demo-rtmdet.py',
)

max_epochs = 30
base_lr = 1e-3
train_cfg = dict(max_epochs=max_epochs)
optim_wrapper = dict(optimizer=dict(lr=base_lr, weight_decay=0.01))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=100),
    dict(
        type='CosineAnnealingLR',
        eta_min=base_lr * 0.01,
        begin=2,
        end=max_epochs,
        T_max=max_epochs - 2,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]

input_size = (112, 192)  # width, height: narrow, since persons are
codec = dict(
    type='SimCCLabel',
    input_size=input_size,
    sigma=(3.3, 4.4),
    simcc_split_ratio=2.0,
    normalize=False,
    use_dark=False,
)

model = dict(
    type='TopdownPoseEstimator',
    data_preprocessor=dict(
        type='PoseDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
    ),
    # Three of the four stages of a narrow ResNet-18. On a CPU its dense convolutions train several
    # times faster than the depthwise convolutions of an equally narrow CSPNeXt.
    backbone=dict(
        type='ResNet',
        depth=18,
        num_stages=3,
        strides=(1, 2, 1),
        dilations=(1, 1, 2),
        stem_channels=16,
        base_channels=16,
        out_indices=(1, 2),
    ),
    # Exact positions are learnt much faster from features of stride 8 than of stride 16.
    neck=dict(type='FeatureMapProcessor', select_index=(0, 1), concat=True),
    head=dict(
        type='RTMCCHead',
        in_channels=32 + 64,
        out_channels=17,
        input_size=input_size,
        in_featuremap_size=(14, 24),
        simcc_split_ratio=2.0,
        final_layer_kernel_size=3,
        gau_cfg=dict(
            hidden_dims=256,
            s=128,
            expansion_factor=2,
            dropout_rate=0.0,
            drop_path=0.0,
            act_fn='SiLU',
            use_rel_bias=False,
            pos_enc=False,
        ),
        loss=dict(type='KLDiscretLoss', use_target_weight=True, beta=10.0, label_softmax=True),
        decoder=codec,
    ),
    test_cfg=dict(flip_test=True),
)

data_mode = 'topdown'
train_pipeline = [
    dict(type='LoadImage'),
    dict(type='GetBBoxCenterScale', padding=1.15),
    dict(type='RandomFlip', direction='horizontal'),
    # The jitter of boxes is that of a small detector; the scenes vary enough without more.
    dict(
        type='RandomBBoxTransform',
        shift_factor=0.08,
        shift_prob=0.8,
        scale_factor=[0.82, 1.18],
        rotate_prob=0,
    ),
    dict(type='TopdownAffine', input_size=input_size),
    dict(type='GenerateTarget', encoder=codec),
    dict(type='PackPoseInputs'),
]
val_pipeline = [
    dict(type='LoadImage'),
    dict(type='GetBBoxCenterScale', padding=1.15),
    dict(type='TopdownAffine', input_size=input_size),
    dict(type='PackPoseInputs'),
]
train_dataloader = dict(batch_size=32, dataset=dict(data_mode=data_mode, pipeline=train_pipeline))
val_dataloader = dict(batch_size=32, dataset=dict(data_mode=data_mode, pipeline=val_pipeline))
test_dataloader = val_dataloader
