"""Networks for other programs: a closed function of images, in the files of other frameworks.

program.py      the function that is exported: a folded network, with or without normalisation
formats.py      a row for each format
stablehlo.py    jax.export; onnx/, litert.py, savedmodel.py: the others, a file or folder each
writing.py      writes a file, runs it by its own runtime and compares; all or nothing
exported.py     an exported file as a model that predicts and is evaluated
"""
