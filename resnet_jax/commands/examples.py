"""Examples of every command and kind of one, which its --help ends with.

Words of the command ('' is the program itself) -> (what it does, arguments of `resnet-jax`). The
tests parse them all.
"""

EXAMPLES: dict[str, tuple[tuple[str, str], ...]] = {
    '': (
        ('train on the embedded digits', 'train --config digits --workdir runs/digits'),
        ('evaluate what was trained', 'eval --workdir runs/digits --per-class'),
        ('list the models', "models 'cifar_*'"),
    ),
    'train': (
        ('train a ResNet-8 on 8x8 digits', 'train --config digits --workdir runs/digits'),
        (
            'change fields of the config',
            'train --config digits --workdir runs/b --config.optim.learning_rate=0.05',
        ),
        (
            'train on your own images, in PATH/train/CLASS and PATH/test/CLASS',
            'train --config imagenette --workdir runs/c --config.data.name=folder:PATH '
            '--config.data.eval_split=test',
        ),
        (
            'train a finished run further',
            'train --config digits --workdir runs/b --extend --config.train.epochs=40',
        ),
        (
            'see where the time of 20 steps goes',
            'train --config digits --workdir runs/p --profile 20',
        ),
        (
            'start the first of two processes; the other takes --process-id 1',
            'train --config cifar10 --workdir runs/d '
            '--coordinator host0:1234 --processes 2 --process-id 0',
        ),
    ),
    'config': (
        ('list the configs of the package', 'config'),
        ('every field of one, with its meaning', 'config digits'),
        ('what it changes of the default', 'config cifar10:cifar_resnet110 --diff'),
        (
            'what a run would be, as JSON',
            'config digits --config.optim.learning_rate=0.05 --json',
        ),
    ),
    'sweep': (
        ('compare norms, three seeds each', 'sweep --config sweeps/norms --workdir DIR --seeds 3'),
        (
            'shorter runs of all arms',
            'sweep --config sweeps/norms --workdir DIR --config.train.epochs=5',
        ),
        (
            'the first of four jobs of an array',
            'sweep --config sweeps/norms --workdir DIR --shard 1/4',
        ),
        ('in four processes', 'sweep --config sweeps/norms --workdir DIR --workers 4'),
    ),
    'search': (
        (
            'search for a learning rate and a weight decay',
            'search --config searches/learning_rate_weight_decay --workdir DIR',
        ),
        (
            'with twenty trials of five epochs',
            'search --config searches/learning_rate_weight_decay --workdir DIR '
            '--trials 20 --config.train.epochs=5',
        ),
        (
            'suggest a learning rate by one short run',
            'search --config digits --workdir runs/rates --lr-range',
        ),
    ),
    'report': (
        ('the report of a run', 'report --workdir runs/digits'),
        ('the report of a sweep, and its figures as JSON', 'report --workdir runs/norms --json'),
    ),
    'compare': (
        ('compare two runs', 'compare runs/a runs/b'),
        ('draw their curves too', 'compare runs/a runs/b runs/c --out runs/compared'),
    ),
    'reproduce': (
        ('list the published tables', 'reproduce --list'),
        (
            'check that the rows of a table run',
            'reproduce he2016_table2 --scale smoke --workdir runs/t2',
        ),
        (
            'compare some rows with the paper, trained for a sixteenth of the length',
            'reproduce he2015_table6 --scale short --workdir runs/t6 --rows ResNet-20,ResNet-32',
        ),
    ),
    'eval': (
        ('evaluate a run', 'eval --workdir runs/digits'),
        (
            'evaluate its best checkpoint, class by class',
            'eval --workdir runs/digits --checkpoint best --per-class',
        ),
        ('write a page of its mistakes', 'eval --workdir runs/digits --report'),
        (
            'evaluate published weights on a folder of images',
            'eval --model resnet50 --weights resnet50.pth --data folder:imagenet --split val',
        ),
    ),
    'predict': (
        ('the three likeliest classes of two images', 'predict --workdir runs/a x.jpg y.png'),
        ('all images of a folder, as CSV', 'predict --workdir runs/a photos --topk 1 --csv'),
        (
            'draw each image beside its classes',
            "predict --workdir runs/a 'photos/**/*.jpg' --sheet sheet.png",
        ),
        (
            'published weights',
            'predict --model resnet50 --weights resnet50.pth photo.jpg',
        ),
    ),
    'features': (
        ('list the layers of a model', 'features --model resnet50 --list'),
        (
            'write two layers for the images of a run',
            'features --workdir runs/digits --layer pooled --layer stage3/block1 --out digits.npz',
        ),
        (
            'write those of your own images',
            'features --model cifar_resnet20 --weights cifar_resnet20.pth '
            '--data folder:photos --split train --layer pooled --out photos.npz',
        ),
    ),
    'probe': (
        ('a linear classifier and nearest neighbours', 'probe digits.npz'),
        ('with few examples of each class too', 'probe digits.npz --few-shot --out probe'),
        ('tested on the features of another split', 'probe train.npz --test test.npz'),
    ),
    'analyze': (
        ('the error with each block removed', 'analyze lesion --workdir runs/digits'),
        ('how far confidences can be believed', 'analyze calibration --workdir runs/digits'),
    ),
    'analyze lesion': (
        ('the error with each block removed', 'analyze lesion --workdir runs/digits'),
        (
            'more random choices of blocks, on 500 images',
            'analyze lesion --workdir runs/digits --draws 20 --limit 500',
        ),
    ),
    'analyze paths': (
        ('paths and gradients of a trained network', 'analyze paths --workdir runs/digits'),
        ('of its initial values too', 'analyze paths --workdir runs/digits --init'),
    ),
    'analyze landscape': (
        ('the loss around the weights', 'analyze landscape --workdir runs/digits --limit 200'),
        (
            'along one direction, in 41 points',
            'analyze landscape --workdir runs/digits --dimensions 1 --points 41',
        ),
    ),
    'analyze signal': (
        ('responses and gradients, layer by layer', 'analyze signal --workdir runs/digits'),
        ('of its initial values too', 'analyze signal --workdir runs/digits --init'),
    ),
    'analyze similarity': (
        ('the layers of one network', 'analyze similarity --workdir runs/seed0'),
        (
            'those of two networks',
            'analyze similarity --workdir runs/seed0 --other-workdir runs/seed1',
        ),
        (
            'two checkpoints of one run',
            'analyze similarity --workdir runs/seed0 --other-checkpoint best',
        ),
    ),
    'analyze attribution': (
        ('where the network looks', 'analyze attribution --workdir runs/digits'),
        (
            'by two methods, and how faithful they are',
            'analyze attribution --workdir runs/digits --method grad_cam hires_cam --curves',
        ),
    ),
    'analyze calibration': (
        ('how far confidences can be believed', 'analyze calibration --workdir runs/digits'),
        (
            'fit the temperature on another split, and keep it for predict --calibrated',
            "analyze calibration --workdir runs/a --fit-split 'train[45000:]' --store",
        ),
    ),
    'analyze robustness': (
        ('the error under fifteen corruptions', 'analyze robustness --workdir runs/digits'),
        ('at three severities', 'analyze robustness --workdir runs/digits --severities 1,3,5'),
    ),
    'models': (
        ('all models', 'models'),
        ('those of a pattern', "models 'cifar_*'"),
        (
            'memory of a training step of 32 images',
            'models resnet50 --memory 32 --dtype bfloat16 --remat',
        ),
    ),
    'convert': (
        (
            "PyTorch's weights to ours",
            'convert resnet50.pth resnet50.safetensors --model resnet50',
        ),
        ('and back', 'convert resnet50.safetensors again.pth --model resnet50'),
        (
            'for images of one channel',
            'convert resnet50.pth gray.safetensors --model resnet50 --adapt-stem 1',
        ),
    ),
    'compress': (
        (
            'remove half of the channels',
            'compress prune --workdir runs/digits --unit channel --sparsity 0.5 --out runs/pruned',
        ),
        ('eight bits', 'compress quantize --workdir runs/digits --out runs/int8'),
        ('compare them', 'compress compare runs/pruned runs/int8 --out runs/compared'),
    ),
    'compress fold': (
        (
            'fold batch norms into convolutions',
            'compress fold --workdir runs/digits --out runs/folded',
        ),
    ),
    'compress prune': (
        (
            'set 80 % of the weights to zero',
            'compress prune --workdir runs/digits --sparsity 0.8 --out runs/sparse',
        ),
        (
            'remove half of the channels: a smaller and faster network',
            'compress prune --workdir runs/digits --unit channel --sparsity 0.5 --out runs/thin',
        ),
        (
            'then train further; zeros stay zero',
            'train --config digits --workdir runs/tuned '
            '--config.init.weights=runs/sparse --config.prune.schedule=keep',
        ),
    ),
    'compress factorize': (
        (
            'thinner convolutions with 60 % of the multiply-adds',
            'compress factorize --workdir runs/digits --budget 0.6 --out runs/thin',
        ),
    ),
    'compress quantize': (
        ('weights in 8 bits', 'compress quantize --workdir runs/digits --out runs/int8'),
        (
            'the inputs of the layers too',
            'compress quantize --workdir runs/digits --activations 8 --out runs/full8',
        ),
        (
            'half of the weights in 4 bits, where they matter least',
            'compress quantize --workdir runs/digits --mean-bits 6 --out runs/mixed',
        ),
    ),
    'compress compare': (
        (
            'a table and a figure of three models',
            'compress compare runs/int8 runs/pruned runs/thin --out runs/compared',
        ),
    ),
    'export': (
        ('ONNX', 'export --workdir runs/digits digits.onnx'),
        (
            'ONNX with weights and inputs of eight bits',
            'export --workdir runs/digits digits8.onnx --dtype int8',
        ),
        ('StableHLO, for JAX without this package', 'export --workdir runs/digits d.stablehlo'),
        (
            'published weights, taking images of bytes',
            'export --model resnet50 --weights resnet50.pth resnet50.onnx '
            '--layout NHWC --preprocess',
        ),
    ),
    'completion': (
        (
            'write the script of bash; `source resnet-jax.bash` loads it',
            'completion bash > resnet-jax.bash',
        ),
        ('write that of zsh', 'completion zsh > _resnet-jax'),
    ),
    'data': (
        ('find broken and repeated images', 'data check --data folder:photos'),
        ('see images as the model does', 'data show --config digits --out examples.png'),
    ),
    'data check': (
        ('look at headers and hashes', 'data check --data folder:photos'),
        (
            'decode every image too',
            'data check --data folder:photos --full --image-size 224',
        ),
    ),
    'data show': (
        ('the training images of a config', 'data show --config digits --out examples.png'),
        (
            'with another augmentation',
            'data show --config digits --config.augment.transforms=pad_crop',
        ),
        (
            'your own images at a size',
            'data show --data folder:photos --config.data.image_size=224',
        ),
    ),
    'data prepare': (
        (
            'a copy with a shorter side of 256 pixels, in the folder datasets',
            'data prepare --data folder:photos --size 256 datasets',
        ),
    ),
    'data bench': (
        ('images a second of a config', 'data bench --config imagenette'),
        ('with two processes', 'data bench --config imagenette --config.data.workers=2'),
    ),
}
