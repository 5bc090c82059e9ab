"""The probability of violence in a clip, by OpenVINO.

    pip install openvino opencv-python-headless
    python run_openvino.py export/detector_end_to_end.xml CLIP

clip_inputs.py has to be beside this script, and export.json in the folder of the exported file.
"""

import sys

import openvino
from clip_inputs import inputs_of, metadata_of, report

model, clip = sys.argv[1:]
metadata = metadata_of(model)
exact = {"INFERENCE_PRECISION_HINT": "f32"}  # else bfloat16 on a CPU that has it
network = openvino.Core().compile_model(model, "CPU", exact)
outputs = network(inputs_of(clip, metadata))
report(outputs["probability"][0], metadata)
