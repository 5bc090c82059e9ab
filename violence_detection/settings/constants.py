"""What is fixed: the field's names, and numbers that no flag changes."""

FRAME_SIZE = 224  # pixels, both sides: what VGG19 was trained on
FINAL_LEARNING_RATE = 1e-7  # where the cosine ends
CHECKPOINT_EVERY = 5  # epochs
CLIP_TIMEOUT = 120.0  # seconds that decoding a clip may take, unless --clip-timeout is given
LONG_CLIP = 3  # times the usual length of a clip; one that is longer is too long for one answer
SHORTEST_WINDOW = 0.1  # seconds
SPLITS = ("train", "val", "test")
UNLABELED = "unlabeled"  # stands in a split's place for clips of --unlabeled
SPLIT_SHARES = {"train": 0.70, "val": 0.15, "test": 0.15}  # when the folder has no splits
CLASS_NAMES = ("nonviolent", "violent")  # the position is the label

STREAMS = ("rgb", "difference", "flow")  # what VGG19 is shown
# What the maps of a convolution or pooling layer become, see `models.pooling.pooled`.
POOLINGS = ("mean", "max", "top", "mean+max", "grid", "flat")
HEADS = ("attention-lstm", "bidirectional", "self-attention", "transformer", "mean")
FEATURE_AUGMENTATIONS = ("jitter", "speed", "drop", "reverse", "mixup", "cutmix", "noise", "flip")
OF_WHOLE_BATCHES = frozenset(("mixup", "cutmix", "noise"))  # each clip depends on the others
PIXEL_AUGMENTATIONS = ("crop", "colour")  # of networks that are trained from pixels
AUGMENTATIONS = FEATURE_AUGMENTATIONS + PIXEL_AUGMENTATIONS
THRESHOLD_GOALS = ("accuracy", "balanced", "f1", "recall=SHARE", "fpr=SHARE")

# Stores that a URL may name, and the library that fsspec reads each with.
STORES = {"s3": "s3fs", "gs": "gcsfs", "hdfs": "pyarrow"}

VGG19 = "vgg19"
XLA_ALL = "all"  # --xla=all
PIXELS = "pixels"  # stands in a backbone's place where frames are trained on as they are
ONNX = ".onnx"  # ends the name of a backbone that is a file
FEATURES, RESIDUAL, FLOW_GATED = "features", "3d", "flow-gated"
MODELS = (FEATURES, RESIDUAL, FLOW_GATED)
FUSION_BOUND = 1e-6  # of the probabilities that a fusion takes, away from 0 and 1
JOINED, LATE = FUSIONS = ("joined", "late")  # of several backbones
# Image networks of keras.applications, and the size of the pictures they were trained on, pixels.
BACKBONES = {
    VGG19: FRAME_SIZE,
    "VGG16": 224,
    "ResNet50": 224,
    "ResNet101": 224,
    "ResNet152": 224,
    "ResNet50V2": 224,
    "ResNet101V2": 224,
    "ResNet152V2": 224,
    "DenseNet121": 224,
    "DenseNet169": 224,
    "DenseNet201": 224,
    "MobileNet": 224,
    "MobileNetV2": 224,
    "MobileNetV3Small": 224,
    "MobileNetV3Large": 224,
    "NASNetMobile": 224,
    "NASNetLarge": 331,
    "Xception": 299,
    "InceptionV3": 299,
    "InceptionResNetV2": 299,
    "EfficientNetB0": 224,
    "EfficientNetB1": 240,
    "EfficientNetB2": 260,
    "EfficientNetB3": 300,
    "EfficientNetB4": 380,
    "EfficientNetB5": 456,
    "EfficientNetB6": 528,
    "EfficientNetB7": 600,
    "EfficientNetV2B0": 224,
    "EfficientNetV2B1": 240,
    "EfficientNetV2B2": 260,
    "EfficientNetV2B3": 300,
    "EfficientNetV2S": 384,
    "EfficientNetV2M": 480,
    "EfficientNetV2L": 480,
    "ConvNeXtTiny": 224,
    "ConvNeXtSmall": 224,
    "ConvNeXtBase": 224,
    "ConvNeXtLarge": 224,
    "ConvNeXtXLarge": 224,
}
LAST_LAYER = "last"  # of another backbone than VGG19: the last map before its classifier
VGG19_CONVOLUTIONS = (2, 2, 4, 4, 4)  # per block
VGG19_LAYERS = (
    *(
        name
        for block, convolutions in enumerate(VGG19_CONVOLUTIONS, start=1)
        for name in (
            *(f"block{block}_conv{i}" for i in range(1, convolutions + 1)),
            f"block{block}_pool",
        )
    ),
    *("flatten", "fc1", "fc2", "predictions"),
)
# VGG19's layers that --fine-tune trains with the classifier, and what is cached below them.
FINE_TUNED = {
    "fc": ("fc1", "fc2"),
    "block5": tuple(name for name in VGG19_LAYERS if name.startswith("block5")),
}
CACHED_BELOW = {"fc": ("flatten", "mean"), "block5": ("block4_pool", "flat")}  # layer, pooling
