"""The probability of violence in a clip, by Keras.

    pip install keras tensorflow opencv-python-headless
    python run_keras.py export/detector_end_to_end.keras CLIP

clip_inputs.py has to be beside this script, and export.json in the folder of the exported file.
"""

import sys

import keras
from clip_inputs import inputs_of, metadata_of, report

model, clip = sys.argv[1:]
metadata = metadata_of(model)
network = keras.models.load_model(model)
outputs = network(inputs_of(clip, metadata), training=False)
report(float(outputs["probability"][0]), metadata)
