"""The probability of violence in a clip, by ONNX Runtime.

    pip install onnxruntime opencv-python-headless
    python run_onnx.py export/detector_end_to_end.onnx CLIP

clip_inputs.py has to be beside this script, and export.json in the folder of the exported file.
"""

import sys

import onnxruntime
from clip_inputs import inputs_of, metadata_of, report

model, clip = sys.argv[1:]
metadata = metadata_of(model)
session = onnxruntime.InferenceSession(model)
(probabilities,) = session.run(["probability"], inputs_of(clip, metadata))
report(probabilities[0], metadata)
