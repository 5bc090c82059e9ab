"""The probability of violence in a clip, by TensorFlow.

    pip install tensorflow opencv-python-headless
    python run_saved_model.py export/saved_model_end_to_end/1 CLIP

clip_inputs.py has to be beside this script, and export.json in the folder of the exported file.
"""

import sys

import tensorflow as tf
from clip_inputs import inputs_of, metadata_of, report

model, clip = sys.argv[1:]
metadata = metadata_of(model)
run = tf.saved_model.load(model).signatures["serving_default"]
inputs = {name: tf.constant(images) for name, images in inputs_of(clip, metadata).items()}
report(run(**inputs)["probability"].numpy()[0], metadata)
