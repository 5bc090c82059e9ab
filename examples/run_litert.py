"""The probability of violence in a clip, by LiteRT.

    pip install ai-edge-litert opencv-python-headless
    python run_litert.py export/detector_end_to_end.tflite CLIP

clip_inputs.py has to be beside this script, and export.json in the folder of the exported file.
"""

import sys

from ai_edge_litert.interpreter import Interpreter
from clip_inputs import inputs_of, metadata_of, report

model, clip = sys.argv[1:]
metadata = metadata_of(model)
run = Interpreter(model).get_signature_runner("serving_default")
outputs = run(**inputs_of(clip, metadata))
report(outputs["probability"][0], metadata)
