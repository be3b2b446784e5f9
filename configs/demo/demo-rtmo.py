# RTMO on a small ResNet, 288x288, trained on synthetic scenes.
_base_ = './_scenes.py'

default_scope = 'mmpose'
visualizer = dict(type='PoseLocalVisualizer', vis_backends=[dict(type='LocalVisBackend')])

inferencer = dict(type='BatchPose2DInferencer', weights='{{ fileDirname }}/demo-rtmo.pth')
# Lower scores are mostly false and duplicate persons; RTMO's default of 0.1 gains 0.001 AP.
default_filters = dict(bbox_thr=0.3)

max_epochs = 30
base_lr = 1e-3
train_cfg = dict(max_epochs=max_epochs, val_interval=3)
optim_wrapper = dict(
    optimizer=dict(lr=base_lr),
    clip_grad=dict(max_norm=0.1, _delete_=True),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=100),
    dict(
        type='CosineAnnealingLR',
        eta_min=base_lr * 0.01,
        begin=0,
        end=max_epochs,
        T_max=max_epochs,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]

# In the last epochs, the coordinate classifier provides the targets of the branch that assigns
# training samples, and of the scores. Earlier, it is too inaccurate for that.
switch_epoch = 20
custom_hooks = [
    dict(
        type='EMAHook',
        ema_type='ExpMomentumEMA',
        momentum=1e-3,
        update_buffers=True,
        priority=49,
    ),
    dict(
        type='RTMOModeSwitchHook',
        # Set for every later epoch, since checkpoints do not store it.
        epoch_attributes={
            epoch: {'proxy_target_cc': True} for epoch in range(switch_epoch, max_epochs)
        },
        priority=48,
    ),
]

input_size = (288, 288)
strides = [16]
codec = dict(type='YOLOXPoseAnnotationProcessor', input_size=input_size)

model = dict(
    type='BottomupPoseEstimator',
    data_preprocessor=dict(
        type='PoseDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
    ),
    # The backbone of demo-rtmpose, which is trained on persons already, and a fourth stage.
    backbone=dict(
        type='ResNet',
        depth=18,
        stem_channels=16,
        base_channels=16,
        strides=(1, 2, 1, 2),
        dilations=(1, 1, 2, 2),
        out_indices=(3,),
        frozen_stages=1,
        norm_eval=False,
        init_cfg=dict(
            type='Pretrained',
            prefix='backbone.',
            checkpoint='{{ fileDirname }}/demo-rtmpose.pth',
        ),
    ),
    neck=dict(
        type='HybridEncoder',
        in_channels=[128],
        feat_strides=strides,
        hidden_dim=192,
        use_encoder_idx=[0],
        encoder_cfg=dict(
            self_attn_cfg=dict(embed_dims=192, num_heads=8, dropout=0.0),
            ffn_cfg=dict(
                embed_dims=192,
                feedforward_channels=384,
                ffn_drop=0.0,
                act_cfg=dict(type='GELU'),
            ),
        ),
        projector=dict(
            type='ChannelMapper',
            in_channels=[192],
            kernel_size=1,
            out_channels=192,
            act_cfg=None,
            norm_cfg=dict(type='BN'),
            num_outs=1,
        ),
    ),
    head=dict(
        type='RTMOHead',
        num_keypoints=17,
        featmap_strides=strides,
        head_module_cfg=dict(
            num_classes=1,
            in_channels=96,
            cls_feat_channels=64,
            channels_per_group=32,
            pose_vec_channels=192,
            stacked_convs=2,
            norm_cfg=dict(type='BN', momentum=0.03, eps=0.001),
            act_cfg=dict(type='SiLU', inplace=True),
        ),
        assigner=dict(
            type='SimOTAAssigner',
            dynamic_k_indicator='iou',
            candidate_topk=5,  # with 13, the classifier took more time than the backbone
            oks_calculator=dict(type='PoseOKS'),
            use_keypoints_for_center=True,
        ),
        prior_generator=dict(type='MlvlPointGenerator', centralize_points=True, strides=strides),
        dcc_cfg=dict(
            in_channels=192,
            feat_channels=64,
            num_bins=(64, 96),
            spe_channels=64,
            gau_cfg=dict(
                s=64,
                expansion_factor=2,
                dropout_rate=0.0,
                drop_path=0.0,
                act_fn='SiLU',
                pos_enc='add',
            ),
        ),
        overlaps_power=0.5,
        loss_cls=dict(
            type='VariFocalLoss', reduction='sum', use_target_weight=True, loss_weight=1.0
        ),
        loss_bbox=dict(type='IoULoss', mode='square', eps=1e-16, reduction='sum', loss_weight=5.0),
        loss_oks=dict(
            type='OKSLoss',
            reduction='none',
            metainfo='configs/_base_/datasets/coco.py',
            loss_weight=10.0,
        ),
        loss_vis=dict(type='BCELoss', use_target_weight=True, reduction='mean', loss_weight=1.0),
        loss_mle=dict(type='MLECCLoss', use_target_weight=True, loss_weight=5.0),
    ),
    test_cfg=dict(input_size=input_size, score_thr=0.05, nms_thr=0.65),
)

data_mode = 'bottomup'
train_pipeline = [
    dict(type='LoadImage'),
    # The complete image, scaled as BottomupResize does. The mode 'perspective' of MMPose's RTMO
    # configs does not scale the image to the input, since a mosaic comes before it.
    dict(
        type='BottomupRandomAffine',
        input_size=input_size,
        shift_factor=0.1,
        rotate_factor=0,
        scale_factor=(0.8, 1.2),
        pad_val=114,
        distribution='uniform',
        transform_mode='affine',
        scale_type='long',
        bbox_keep_corner=False,
        clip_border=True,
    ),
    dict(type='RandomFlip'),
    dict(type='FilterAnnotations', by_kpt=True, by_box=True, keep_empty=False),
    dict(type='GenerateTarget', encoder=codec),
    dict(type='PackPoseInputs'),
]
val_pipeline = [
    dict(type='LoadImage'),
    dict(type='BottomupResize', input_size=input_size, pad_val=(114, 114, 114)),
    dict(
        type='PackPoseInputs',
        meta_keys=(
            'id',
            'img_id',
            'img_path',
            'ori_shape',
            'img_shape',
            'input_size',
            'input_center',
            'input_scale',
        ),
    ),
]
# More persons per training step.
scene_options = dict(persons=(2, 4))
train_dataloader = dict(
    batch_size=32,
    dataset=dict(
        ann_file='crowd/annotations.json',
        data_prefix=dict(img='crowd/'),
        data_mode=data_mode,
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(batch_size=16, dataset=dict(data_mode=data_mode, pipeline=val_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(score_mode='bbox', nms_mode='none')
test_evaluator = val_evaluator
