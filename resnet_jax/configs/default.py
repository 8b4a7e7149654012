"""Every field, with its default: the CIFAR-10 recipe of he2015, section 4.2.

A config file defines `get_config()`, or `get_config(variant)` for `--config file.py:variant`,
starts from this one and changes only what differs. `import default` finds this file from every
folder, unless there is another default.py beside the config. On the command line
`--config.optim.learning_rate=0.05` changes one field; None unsets one. Papers: he2015 is arXiv
1512.03385, he2016 is arXiv 1603.05027.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import FieldReference, placeholder


def get_config() -> ConfigDict:
    """The default config; `placeholder(type)` is a field of that type that is not set.

    A `FieldReference` keeps its type when it is unset.
    """
    config = ConfigDict()
    config.seed = 0  # everything random in a run derives from it
    config.task = 'classification'  # what is learnt: segmentation, detection, depth: docs/dense.md

    config.model = ConfigDict()
    config.model.name = 'cifar_resnet20'  # see `resnet-jax models`
    config.model.dtype = 'float32'  # of the computation; bfloat16 keeps float32 parameters
    # The rest overrides the model's row, where set (see resnet_jax/models).

    config.model.placement = placeholder(str)  # where norm and activation stand: he2016, figure 4
    config.model.shortcut = placeholder(str)  # zero_pad, projection, normed, conv1x1, none, ...
    config.model.raw_first_shortcut = placeholder(bool)  # pre-activation of other codes than he2016
    config.model.gate = placeholder(str)  # none, exclusive, shortcut_only: he2016, figure 2
    config.model.gate_bias = placeholder(float)  # its initial bias
    config.model.shortcut_scale = placeholder(float)  # factor of the shortcut
    config.model.branch_scale = placeholder(float)  # factor of the branch
    config.model.learn_shortcut_scale = placeholder(bool)  # learn shortcut_scale, from that value
    config.model.learn_branch_scale = placeholder(bool)  # learn branch_scale (SkipInit: from 0)
    config.model.shortcut_dropout = placeholder(float)  # rate
    config.model.branch_dropout = placeholder(float)  # rate, before a block's last convolution
    config.model.activation = placeholder(str)  # relu, leaky_relu, gelu, silu, elu, relu6
    config.model.kernels = placeholder(tuple)  # kernel sizes in a block, e.g. (1, 3, 1)
    # What stands for each larger than 1x1: full, spatial, space_time (video), depthwise, separable.
    config.model.convolution = placeholder(str)
    config.model.expansion = placeholder(int)  # a block's output channels over its width
    config.model.groups = placeholder(int)  # of the convolutions larger than 1x1 (ResNeXt)
    config.model.base_width = placeholder(int)  # channels of a group at width 64
    config.model.inner_ratio = placeholder(float)  # inner over input channels (MobileNetV2: 6)
    config.model.pointwise_groups = placeholder(int)  # of the 1x1 convolutions, with a shuffle
    config.model.linear_depthwise = placeholder(bool)  # no activation after depthwise convolutions
    config.model.stride_at = placeholder(int)  # which convolution of a block carries the stride
    config.model.se_ratio = placeholder(float)  # squeeze-and-excitation; the papers' is 1/16
    config.model.se_place = placeholder(str)  # standard, pre, post, identity
    config.model.eca = placeholder(bool)  # efficient channel attention
    config.model.downsample = placeholder(str)  # stride, average (ResNet-D), blur, ...
    config.model.zero_init_last = placeholder(bool)  # every residual branch starts at zero
    config.model.stage_sizes = placeholder(tuple)  # blocks in each stage
    config.model.stem = placeholder(str)  # imagenet (7x7/2, max-pool), cifar (3x3), ...
    config.model.stem_width = placeholder(int)  # channels of the stem
    config.model.width = placeholder(int)  # of the first stage's blocks
    config.model.stage_widths = placeholder(tuple)  # of each stage, where they do not double
    config.model.stage_strides = placeholder(tuple)  # of each stage, where not 1, 2, 2, ...
    # What differs in single stages: ('stage1/kernels=3,1', 'stage[234]/convolution=spatial').
    config.model.stage_designs = placeholder(tuple)
    config.model.vocabulary = placeholder(int)  # of stem=embedding: 256 for the bytes of texts
    config.model.last_width = placeholder(int)  # of a last 1x1 convolution before the pool
    config.model.dimensions = placeholder(int)  # of space: 1 of series, 2 of images, 3 of volumes
    config.model.output_stride = placeholder(int)  # largest reduction; later stages dilate
    config.model.norm = placeholder(str)  # batch, group, layer, none, folded
    config.model.norm_groups = placeholder(int)  # of group norm
    config.model.ghost_batch = placeholder(int)  # examples that batch norm takes together; 0: all
    config.model.bn_momentum = placeholder(float)  # running = momentum * running + ...
    config.model.bn_epsilon = placeholder(float)  # of every norm
    config.model.weight_standardization = placeholder(bool)  # kernels of mean 0 and equal variance
    config.model.standardized_to = placeholder(str)  # their variance: fan_in (1 / it) or one
    config.model.zero_init_head = placeholder(bool)  # all classes start equally likely
    config.model.conv_bias = placeholder(bool)  # convolutions add biases, norms or not
    # he_fan_out, he_fan_in, glorot_uniform, fixup (with norm=none)
    config.model.init_scheme = placeholder(str)
    config.model.dropout = placeholder(float)  # rate, before the head
    config.model.stochastic_depth = placeholder(float)  # rate of dropping the last block's branch
    config.model.stochastic_depth_decay = placeholder(str)  # linear or constant over the blocks
    # Single layers, by path with wildcards; what `resnet-jax compress` makes: docs/compress.md.
    config.model.inner_channels = placeholder(tuple)  # ('stage1/block2=12', 'stage3/*/conv1=48')
    config.model.ranks = placeholder(tuple)  # products of thin ones: ('stage3/*/conv1=16x24',)
    config.model.weight_bits = placeholder(int)  # quantised weights, also in training; 0: floats
    config.model.activation_bits = placeholder(int)  # quantised inputs of their layers
    config.model.layer_bits = placeholder(tuple)  # of single layers: ('stem=0', 'head=8')
    config.model.scan_blocks = placeholder(bool)  # compile equal blocks once, as a loop
    config.model.remat = placeholder(bool)  # less memory: compute blocks again going backward

    # Of dense networks, such as fcn_resnet50 and retinanet_resnet50_fpn: docs/dense.md.

    config.model.backbone = placeholder(str)  # another network in the place of the row's
    config.model.features = placeholder(tuple)  # its stages that the head takes
    config.model.frozen = placeholder(int)  # its first parts that do not learn; 1: the stem
    config.model.head = placeholder(str)  # fcn, aspp, psp, unet
    config.model.head_width = placeholder(int)  # channels in it; 0: what its paper has
    config.model.aux = placeholder(str)  # the stage that a second head takes
    config.model.pyramid_width = placeholder(int)  # channels of the pyramid of a detector
    config.model.anchor_scale = placeholder(float)  # factor of its anchors, of 32 to 813 pixels

    config.init = ConfigDict()  # where the parameters start, if not at random
    config.init.weights = placeholder(str)  # a file or run; hf:OWNER/REPO, torchvision:NAME
    config.init.weights_key = placeholder(str)  # which weights of several in it: state_dict_ema
    config.init.adapt_stem = False  # sum or spread its stem's weights over data.channels
    config.init.reset_head = False  # leave the file's head out and start it at random

    config.data = ConfigDict()
    # digits, moving_digits, synthetic, tfds:NAME, folder:PATH, tar:PATTERN, npz:FILE, hf:NAME,
    # aeon:NAME, text:PATH, audio:PATH: docs/data.md
    config.data.name = 'tfds:cifar10'
    config.data.accept_changes = (
        False  # continue a run though images were added, removed or replaced
    )
    config.data.dir = placeholder(str)  # where TFDS keeps its data; its own default if not set
    config.data.train_split = 'train'  # TFDS's syntax: train[:45000], train[:90%]+test
    config.data.eval_split = 'test'  # what is evaluated, in the same syntax
    # Of all but tfds, slices have the classes in proportion; sorted: class by class, as they lie.
    config.data.slice_order = 'stratified'
    # Hold out this fraction of train_split, classes in proportion, and evaluate on it instead.
    config.data.validation = 0.0
    # Of folder:PATH: a CSV of file names and classes, for splits without class folders.
    config.data.labels = placeholder(str)
    # The column of hf and tfds, or suffix or JSON field of tar, that holds the images; found if
    # unset.
    config.data.image_key = placeholder(str)
    config.data.label_key = placeholder(str)  # likewise of the labels
    # Of tar, npz and hf: a file of the classes' names, one a line; numbers if unset.
    config.data.label_names = placeholder(str)
    config.data.image_size = 32  # pixels, height and width of what the model sees
    # Frames of videos or slices of volumes, taken at even distances; images if unset.
    config.data.frames = placeholder(int)
    config.data.length = placeholder(int)  # of text:PATH bytes, of audio:PATH samples of each file
    config.data.sample_rate = placeholder(int)  # of audio:PATH, samples a second
    # What the model sees of audio:PATH, such as log_mel(bands=64, hop=0.01); unset: the waveform.
    config.data.spectrogram = placeholder(str)
    # In training, where it is another (arXiv 1906.06423, 2110.00476); image_size if unset.
    config.data.train_image_size = placeholder(int)
    config.data.channels = 3  # 1 or 3, images are converted; or the bands of a TIFF or array
    # Shorter side before the centre crop; image_size if unset.
    config.data.resize = placeholder(int)
    # Subtract the mean per channel or per pixel (he2015: pixel); or give each series by itself mean
    # 0 and deviation 1 (series).
    config.data.normalize = 'channel'
    config.data.mean = placeholder(tuple)  # per channel, pixels in [0, 1]; measured if not set
    config.data.std = placeholder(tuple)  # likewise; divided by per channel, unless per pixel
    config.data.memory_mib = 1024  # a training set up to this size lives on the device
    # A training image that cannot be read ends the run (stop), or another takes its place (skip).
    config.data.bad_images = 'stop'
    # With skip: the run ends where more than this share of the images read so far was replaced.
    config.data.bad_images_share = 0.01
    config.data.workers = placeholder(int)  # processes that read a streamed set; chosen if not set

    config.augment = ConfigDict()
    # Random transforms of training images, in order, each with its settings where they are not the
    # default: ('pad_crop(pad=2)', 'flip', 'mixup(alpha=0.2)'). () for none. docs/data.md has them
    # all. Where one runs on the host, such as random_resized_crop, the set is streamed.
    config.augment.transforms = ('pad_crop', 'flip')
    # Times that each example comes in a row, augmented differently (repeated augmentation).
    config.augment.repeats = 1

    config.train = ConfigDict()
    config.train.batch_size = 128  # examples of a step, on all devices together
    config.train.steps = FieldReference(64_000)  # exactly one of steps and epochs is set
    config.train.epochs = placeholder(float)  # passes over the training split
    # Of float32 products: default, high, highest, bfloat16, tensorfloat32 or float32 (see
    # jax.default_matmul_precision); JAX's own setting if unset.
    config.train.matmul_precision = placeholder(str)
    # Steps that the device takes for one call of the host, of data on the device; 1 on a CPU and 10
    # elsewhere if unset. More than 1 hides the host's work behind small nets'.
    config.train.steps_per_dispatch = placeholder(int)
    # How much XLA optimises what it compiles, 0 to 3; XLA's own setting if unset. At 0 it compiles
    # faster and the program runs slower: for runs of a few steps.
    config.train.xla_optimization_level = placeholder(int)
    # Parameters that stay as they are, by path, with wildcards: ('stem*', 'stage[12]*', 'all but
    # head'). docs/finetuning.md has more of this and the next two.
    config.train.freeze = ()
    # When some of them begin to train after all: ('stage4@5', 'all@10').
    config.train.unfreeze = ()
    # Batch norms whose parameters and statistics stay as they are, by path; ('all',) for all.
    config.train.freeze_batch_norm = ()
    config.train.log_every = 100  # steps
    config.train.eval_every = 1000  # steps; 0: only at the end
    config.train.eval_batch_size = 500  # examples evaluated at a time
    # Stop early after this many evaluations without an improvement of checkpoint.best; 0: never.
    config.train.patience = 0

    config.log = ConfigDict()  # where figures go besides the workdir: docs/tracking.md
    config.log.trackers = ()  # wandb, mlflow: --config.log.trackers=wandb,mlflow; each is an extra
    config.log.project = placeholder(str)  # the trackers' own, or resnet-jax, if not set
    # Measure every block after every so many steps, on the step's batch; 0: never. Each costs about
    # a step without remat. In metrics.jsonl, split 'signal': for `resnet-jax analyze signal`.
    config.log.signal_every = 0

    config.optim = ConfigDict()
    # sgd, adam, adamw, lamb, nadam, nadamw, lion, muon, schedule_free_sgd, schedule_free_adamw
    config.optim.name = 'sgd'
    config.optim.learning_rate = 0.1  # the highest of the schedule
    config.optim.scale_by_batch = 0  # if set: learning_rate is for this batch size, scaled linearly
    config.optim.momentum = 0.9  # of sgd and muon
    config.optim.nesterov = False  # of sgd and muon: look ahead along the momentum
    config.optim.b1 = 0.9  # of all but sgd; of muon, for the head, norms and biases
    config.optim.b2 = 0.999  # lion usually takes 0.99
    config.optim.epsilon = 1e-8  # of adam, adamw, nadam, nadamw; Keras' is 1e-7
    config.optim.weight_decay = 1e-4  # into the gradient for sgd, adam, nadam; else decoupled
    # The default is he2015's recipe, which decays every parameter; arXiv 1706.02677 spares norms.
    config.optim.decay_norm_and_bias = True
    config.optim.decay_towards = 'zero'  # zero, or start: what init.weights gave (L2-SP)
    config.optim.schedule = 'piecewise'  # constant, piecewise, cosine, onecycle, rising, plateau
    # Of boundaries, warmup and train.unfreeze: steps or epochs.
    config.optim.schedule_unit = 'steps'
    config.optim.boundaries = (32_000.0, 48_000.0)  # piecewise: where decay_factor is applied
    config.optim.decay_factor = 0.1  # of piecewise and plateau: what the rate is multiplied by
    # plateau: multiply the rate by decay_factor where the mean training loss of this many epochs in
    # a row was not below the lowest by more ...
    config.optim.plateau_patience = 10
    config.optim.plateau_threshold = 1e-4  # of plateau: ... than this ...
    config.optim.plateau_floor = 0.0  # of plateau: ... down to this rate
    config.optim.warmup = 0.0  # length; he2015's nets of 110 layers: 400 steps, see warmup_start
    config.optim.warmup_start = 0.0  # the rate it starts from, as a fraction of learning_rate
    config.optim.warmup_shape = 'linear'  # linear, or constant: stay at warmup_start, then jump
    config.optim.clip_norm = 0.0  # largest global norm of the gradient; 0: no clipping
    # Decay of averaged parameters and statistics, which evaluation uses; 0: none. After t steps it
    # is (1 + t) / (10 + t), where that is less.
    config.optim.ema = 0.0
    config.optim.accumulate = 1  # parts of a batch taken one after another, to need less memory
    # Layer-wise decay: the rate of the block k places before the head is multiplied by this to the
    # power k, that of the stem by one power more.
    config.optim.layer_decay = 1.0
    # Factors of the rate by pattern, as of train.freeze: ('head=10', 'stem*=0.1'); the last that
    # matches holds. They multiply with layer_decay, and scale a decoupled decay too.
    config.optim.rates = ()

    config.parallel = ConfigDict()
    config.parallel.mode = 'jit'  # jit (the compiler divides the batch), shard_map or pmap
    config.parallel.devices = placeholder(int)  # how many to use; all if not set
    config.parallel.batch_norm = 'synced'  # statistics of all, per_replica, or groups:N examples
    config.parallel.shard_optimizer = False  # each device keeps its part of the state (ZeRO-1)

    config.loss = ConfigDict()
    # cross_entropy, focal, binary_cross_entropy; of segmentation cross_entropy, focal, dice,
    # cross_entropy_dice; of detection focal; of depth scale_invariant, log_l1
    config.loss.name = 'cross_entropy'
    # Of an example of each class: ('balanced',) for the inverse of their frequency in the training
    # split, of mean 1, or one number per class in their order. () for none.
    config.loss.class_weights = ()
    config.loss.label_smoothing = 0.0  # not of focal
    # Of binary_cross_entropy: a mixed image is an example of each class whose share is above this;
    # if unset, the shares are the targets.
    config.loss.target_threshold = placeholder(float)
    config.loss.gamma = 2.0  # of focal: how much easy examples are played down
    config.loss.alpha = 1.0  # of focal: a factor; of detection the weight of objects, 0.25
    config.loss.aux_weight = 0.4  # of the second head of a segmentation network
    config.loss.box_weight = 1.0  # of detection: of the boxes, beside the classes
    config.loss.scale_invariance = 0.5  # of scale_invariant: lambda of arXiv 1406.2283

    config.distill = ConfigDict()  # learning from the outputs of a teacher: docs/compress.md
    config.distill.teacher = placeholder(str)  # the folder of a run, or a file of weights ...
    config.distill.model = placeholder(str)  # what a teacher of a file is: see `resnet-jax models`
    config.distill.temperature = 4.0  # of both distributions that are compared
    config.distill.weight = 0.9  # of the comparison; the loss above has the rest
    config.distill.features = 0.0  # weight of comparing the maps of attention of all stages
    # online: of each batch as the student sees it; cached: of each image as it is, computed once.
    config.distill.outputs = 'online'

    config.prune = ConfigDict()  # weights that become zero and stay so: docs/compress.md
    # none; keep: weights that init.weights has as zero stay so; gradual: more and more of them.
    config.prune.schedule = 'none'
    config.prune.sparsity = (
        0.0  # of gradual: the share of zeros in the end, of all kernels together
    )
    config.prune.begin = 0.0  # where in the run the first weights become zero, as a fraction of it
    config.prune.end = 0.7  # where the last do
    config.prune.every = 100  # steps from one choice of weights to the next

    config.checkpoint = ConfigDict()
    config.checkpoint.every = 1000  # steps
    config.checkpoint.keep = 2  # the last so many; the best are kept besides
    # Which figure makes the best: top1, top5, loss or ece of evaluations, and of dense tasks miou,
    # pixel_accuracy, ap, ap50, ap75, delta1, rmse or abs_rel; or train_loss: the run
    # keeps and evaluates the parameters after the epoch of the lowest mean training loss.
    config.checkpoint.best = 'top1'
    config.checkpoint.keep_best = 1  # how many of them are kept
    return config.lock()  # so that a misspelt field in a config file is an error
