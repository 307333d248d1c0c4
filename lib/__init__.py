"""What notebooks, app and command line share; each package's `__init__` lists what is public.

config, exceptions, files, system   parameters of a run; errors; files written whole; this machine
images      image files of all kinds -> grey pixels
phantoms    synthetic chest images in the layouts of the real ones
datasets    dataset folders -> one frame of images, labels and splits, and an image cache
models      batches, backbone and head, training, heat maps: everything torch
metrics     targets and probabilities -> scores, intervals, thresholds, calibration
runs        one run's folder and its record; the runs of a study as frames
comparison  runs -> arms, differences, verdicts
plots       frames and arrays -> figures
inference   ONNX files -> predictions, without torch
compression smaller models, and what they lose
export      a run -> one ONNX file
studies     a study file -> a plan -> papermill -> a report
cli         the `cxr` command
"""
